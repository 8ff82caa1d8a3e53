"""Very many jobs through one pool: what the coordinator holds does not grow with them (P6, W7).

The jobs go to the pool as the executor sends them, without Snakemake, whose own growth with
the number of jobs would hide the pool's.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import build_config
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

TOOL = f"{Path(__file__).parent.parent / 'tools' / 'textual.py'}:Textual"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_GROWTH_BYTES = 2000
#: Jobs in flight together.
AHEAD = 200
#: Jobs after which everything that is held once is held.
WARM = 500


def resident_bytes() -> int:
    """What this process has in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> Iterator[str]:
    """The states of this process's children: Z is a zombie."""
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if entry.name.isdigit() and fields[1] == str(os.getpid()):
            yield fields[0]


class Driver:
    """Sends jobs, some ahead of those that are done, and counts what fails.

    Parameters
    ----------
    devices
        The managed ones; None: all.
    model_of
        Returns the model of a job by its number.
    """

    def __init__(
        self,
        directory: Path,
        devices: str | None = "cpu:1",
        model_of: Callable[[int], str] = lambda number: "m",
    ) -> None:
        self.directory, self._model_of = directory, model_of
        self.errors: list[str] = []
        self._done = threading.Semaphore(AHEAD)
        config = build_config(run_root=directory / "run", managed_devices=devices)
        callbacks = Callbacks(self._report, _never, self._broken, lambda line: None)
        self.pool = Pool(config, callbacks)
        self._tool = ToolRef(TOOL, str(directory), config.python, "Textual")

    def _report(self, report: JobReport) -> None:
        if report.error is not None:
            self.errors.append(report.error)
        self._done.release()

    def _broken(self, error: BaseException) -> None:
        self.errors.append(repr(error))

    def send(self, numbers: range) -> None:
        """Send jobs, and wait until all are done."""
        for number in numbers:
            assert self._done.acquire(timeout=60), f"a job was lost: {self.errors}"
            self.pool.submit([self._request(number)])
        for _ in range(AHEAD):
            assert self._done.acquire(timeout=60), f"a job was lost: {self.errors}"
        self._done.release(AHEAD)
        assert not self.errors

    def _request(self, number: int) -> Request:
        source, target = (self.directory / f"{number}.{end}" for end in ("txt", "up"))
        source.write_text(f"word{number}\n")
        files = [Named.from_pairs([(None, str(path))]) for path in (source, target)]
        job = Job(
            rule="up", input=files[0], output=files[1], params={"model": self._model_of(number)}
        )
        return Request(
            job_id=number,
            title=f"rule up (i={number})",
            tool=self._tool,
            job=pickle.dumps(job),
            params=pickle.dumps(job.params),
            cwd=str(self.directory),
        )


def _never(*arguments: object) -> None:
    raise AssertionError("no job asks for a lease")


def check(directory: Path, jobs: int) -> None:
    files_before, children_before = open_files(), len(list(children()))
    driver = Driver(directory)
    try:
        driver.send(range(WARM))
        bytes_before, files_at_work = resident_bytes(), open_files()
        driver.send(range(WARM, jobs))
        growth = (resident_bytes() - bytes_before) / (jobs - WARM)
        assert growth < MAX_GROWTH_BYTES, f"{growth:.0f} bytes a job"
        assert open_files() == files_at_work
        assert "Z" not in set(children())
        assert driver.pool.summary()["model_loads"] == 1
    finally:
        driver.pool.close()
    assert open_files() == files_before
    assert len(list(children())) == children_before
    assert driver.pool.summary()["jobs_served"] == jobs
    assert (directory / f"{jobs - 1}.up").read_text() == f"WORD{jobs - 1}.m\n"


def test_two_thousand_jobs_leave_little_behind(tmp_path: Path) -> None:
    check(tmp_path, 2000)


def test_models_that_come_and_go_leave_no_descriptors(  # P6, W7
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUPOOL_SIMULATE", "1")
    each, models = 2, 9
    driver = Driver(tmp_path, devices=None, model_of=lambda number: f"m{number // each}")
    files, processes = [], []
    try:
        for number in range(models):
            driver.send(range(number * each, (number + 1) * each))
            files.append(open_files())
            processes.append(len(list(children())))
        assert driver.pool.summary()["model_loads"] == models
        assert driver.pool.summary()["evictions"] == models - 1
    finally:
        driver.pool.close()
    # What a worker that leaves had may still be there when the next one has answered.
    assert max(files) <= files[0] + 3 and max(processes) <= processes[0] + 1


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_twenty_thousand_jobs_leave_little_behind(tmp_path: Path) -> None:
    check(tmp_path, 20_000)
