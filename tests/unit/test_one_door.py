"""Whatever thread fails, the run ends with the cause and every job is reported (S10)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import JobFailed, PoolEnded
from snakemake_executor_gpupool.frontends.python import opening
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.runtime import inbox
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.testing.fake_host import FakeHost
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef
from tests.unit.answering import AnsweringHost
from tests.waiting import PATIENCE_S

INFO = ToolInfo(
    deterministic=True,
    persistent=True,
    devices=("cpu",),
    gpus_per_instance=1,
    pads=False,
    vram_mib=None,
    batch_limit_s=60.0,
    can_move=False,
)
NOTHING_READ = ItemsRead(1, ModelInfo("m", "", "g", 0), (), (), (), (), ())


def request(job_id: int) -> Request:
    """A job that no worker ever answers."""
    return Request(job_id, f"rule r (n={job_id})", ToolRef("tool", "", "python"), b"", b"", "/")


class Opened:
    """A pool over a host in memory, and what it has told."""

    def __init__(self, directory: Path) -> None:
        self.host = FakeHost(waits=True)
        self.reports: dict[int, str | None] = {}
        self.lines: list[str] = []
        self.cause: BaseException | None = None
        self.is_broken = threading.Event()
        #: Jobs whose report fails, as does every line if None is among them.
        self.failing: set[int | None] = set()
        self.paths = RunPaths(directory)
        self.paths.create()
        config = PoolConfig((cpu_slot(0),), DeviceSettings(), 1, directory)
        callbacks = Callbacks(self._report, lambda *lease: None, self._broken, self._log)
        self.pool = Pool(config, callbacks, (self.paths, self.host))

    def _report(self, report: JobReport) -> None:
        if report.job_id in self.failing:
            raise UnicodeError(f"no report of job {report.job_id}")
        self.reports[report.job_id] = report.error

    def _log(self, line: str) -> None:
        if None in self.failing:
            raise BrokenPipeError("nobody listens")
        self.lines.append(line)

    def _broken(self, error: BaseException) -> None:
        self.cause = error
        self.is_broken.set()

    def events(self) -> list[dict[str, Any]]:
        """The lines of the event log."""
        return [json.loads(line) for line in self.paths.events.read_text().splitlines()]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    each = Opened(tmp_path)
    yield each
    each.pool.close()


def test_a_failing_report_ends_the_run_and_costs_no_other(opened: Opened) -> None:
    opened.failing.add(2)
    opened.pool.submit([request(n) for n in range(5)])
    opened.pool.cancel("cancelled")
    assert opened.is_broken.wait(PATIENCE_S)
    assert isinstance(opened.cause, UnicodeError)
    assert opened.reports == {n: f"rule r (n={n}): cancelled" for n in (0, 1, 3, 4)}
    assert {"stop_all", "close"} <= {name for name, *_ in opened.host.asked}


def test_a_pool_that_is_closed_in_two_steps_waits_for_nobody(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first its loop accepts nothing, and may not have ended yet."""
    monkeypatch.setattr(inbox, "LOOK_S", PATIENCE_S)
    began_s = time.monotonic()
    opened.pool.begin_close()
    opened.pool.close()
    assert time.monotonic() - began_s < PATIENCE_S / 2


def test_a_failing_line_ends_the_run_with_every_job_reported(opened: Opened) -> None:
    opened.failing.add(None)
    opened.pool.submit([request(n) for n in range(3)])
    opened.pool.summary()  # they are in the tables now
    opened.pool._loop.lines.say("anything")
    assert opened.is_broken.wait(PATIENCE_S)
    assert isinstance(opened.cause, BrokenPipeError)
    assert set(opened.reports) == {0, 1, 2}
    assert all("nobody listens" in (error or "") for error in opened.reports.values())


@pytest.mark.parametrize("method", ["poll", "start", "flush"])
def test_a_failing_loop_ends_the_run_with_every_job_reported(opened: Opened, method: str) -> None:
    opened.host.failing.add(method)
    opened.pool.submit([request(n) for n in range(3)])
    assert opened.is_broken.wait(PATIENCE_S)
    assert str(opened.cause) == f"{method} failed"
    if method != "poll":  # otherwise the loop had not heard of them
        assert set(opened.reports) == {0, 1, 2}
    (event,) = [event for event in opened.events() if event["event"] == "pool_failed"]
    assert f"{method} failed" in event["error"] and "fake_host.py" in event["traceback"]


@pytest.mark.parametrize("method", ["close", "stop_all"])
def test_a_failing_end_is_an_end_all_the_same(opened: Opened, method: str) -> None:
    opened.host.failing |= {method, "poll"}
    opened.host.wake()
    assert opened.is_broken.wait(PATIENCE_S)
    assert str(opened.cause) == "poll failed", "the first cause counts"
    assert opened.events()[-1]["event"] == "run_ended"
    assert not any(Path(spool).exists() for spool in opened.paths.spools)


def test_an_end_that_fails_by_itself_is_told(opened: Opened) -> None:
    opened.host.failing.add("close")
    opened.pool.close()
    assert str(opened.cause) == "close failed"


def test_after_the_end_work_is_refused_and_the_rest_is_let_be(opened: Opened) -> None:
    opened.pool.fail(ValueError("a cause"))
    assert opened.is_broken.wait(PATIENCE_S)
    for _ in range(2):
        with pytest.raises(PoolEnded, match="the pool has failed: a cause"):
            opened.pool.submit([request(1)])
        with pytest.raises(PoolEnded, match="a cause"):
            opened.pool.submit_items(request(1), INFO, NOTHING_READ)
        opened.pool.take_back(1)
        opened.pool.lease_done(1)
        opened.pool.watch_process(1)
        opened.pool.forget_process(1)
        opened.pool.cancel("x")
        assert opened.pool.summary()["jobs_failed"] == 0
        opened.pool.close()
    assert opened.reports == {}


def test_a_closed_pool_refuses_work(opened: Opened) -> None:
    opened.pool.close()
    with pytest.raises(PoolEnded, match="the pool is closed"):
        opened.pool.submit([request(1)])
    assert opened.cause is None


def test_figures_are_read_by_the_loop_alone(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = []

    def summary(now_s: float) -> dict[str, Any]:
        readers.append(threading.current_thread().name)
        return {}

    monkeypatch.setattr(opened.pool._loop, "summary", summary)
    opened.pool.summary()
    monkeypatch.undo()
    assert readers == ["gpupool"]
    assert opened.pool.allocation_map() == {"cpu:0": []}


def test_a_forked_child_is_told_whose_pool_it_is(opened: Opened) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            opened.pool.submit([request(1)])
        except PoolEnded as error:
            os.write(write_end, str(error).encode())
        opened.pool.close()
        os.write(write_end, b" | closed")
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read_end, 10_000).decode()
    os.close(read_end)
    os.close(write_end)
    assert told.startswith(f"the pool is of process {os.getpid()}, from which this one was forked")
    assert told.endswith(" | closed")
    opened.pool.submit([request(2)])
    assert opened.pool.summary()["jobs_failed"] == 0


class Hearing(AnsweringHost):
    """Its workers are given jobs to read, and never answer."""

    def __init__(self) -> None:
        super().__init__(waits=True)
        self.is_reading = threading.Event()

    def _read(self, worker_id: str, meta: Any, blobs: Any) -> None:
        self.is_reading.set()


def test_a_call_ends_when_its_pool_has_failed_and_later_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for ever for a report that nobody will make."""
    monkeypatch.setenv("GPUPOOL_PROFILE", "off")
    host = Hearing()

    def open_pool(config: PoolConfig, callbacks: Callbacks) -> Pool:
        paths = RunPaths(tmp_path / "run")
        paths.create()
        return Pool(config, callbacks, (paths, host))

    monkeypatch.setattr(opening, "Pool", open_pool)
    errors: list[BaseException] = []

    def call(pool: ToolPool) -> None:
        try:
            pool.run_job("linear-head", input=["in"], output=["out"])
        except BaseException as error:
            errors.append(error)

    with ToolPool(devices="cpu:1") as pool:
        waiting = threading.Thread(target=call, args=(pool,))
        waiting.start()
        assert host.is_reading.wait(PATIENCE_S)
        host.failing.add("poll")
        host.wake()
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        call(pool)
    assert [type(error) for error in errors] == [JobFailed, PoolEnded]
    assert all("poll failed" in str(error) for error in errors)
