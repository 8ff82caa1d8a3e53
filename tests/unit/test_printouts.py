"""What a tool prints is shown for the jobs that it was printed for, and for no others: G3."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.server.printouts import Printouts
from snakemake_executor_gpupool.frontends.server.showing import Shown


class Told:
    """A server's printouts, told of events by their names; logs are files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.printouts = Printouts(lambda worker: directory / f"{worker}.log")
        self.sizes: dict[str, int] = {}

    def __call__(self, event: str, **fields: Any) -> None:
        self.printouts.take(0.0, event, fields)

    def start(self, worker: str, model: str = "") -> None:
        if model:
            self("device_granted", worker=worker, model=model, devices=["cpu:0"])
        self("worker_started", worker=worker, stamp="s", devices=["cpu:0"] if model else [])
        self.prints(worker, "import")

    def prints(self, worker: str, doing: str, text: str = "", **about: int) -> None:
        """Have a process print, and say that it has."""
        start, line = self.sizes.get(worker, 0), f"{worker} {text or doing}\n"
        self.writes(worker, line)
        place = {"start": start, "end": start + len(line)}
        self("printed", worker=worker, doing=doing, **place, **about)

    def writes(self, worker: str, line: str) -> None:
        with (self.directory / f"{worker}.log").open("a") as log:
            log.write(line)
        self.sizes[worker] = self.sizes.get(worker, 0) + len(line)

    def job(self, number: int, files: str = "files") -> None:
        """Have a job come and be read."""
        self.printouts.add(number, "s")
        self("read_sent", worker=files, job_id=number)
        self.prints(files, "read", f"read {number}", job_id=number)
        self("file_done", worker=files, job_id=number)
        self("job_read", job_id=number, model="m")

    def batch(self, number: int, worker: str, *jobs: int, later: tuple[int, ...] = ()) -> None:
        """Have a batch computed; ``later`` are jobs that ask for the same meanwhile."""
        self("batch_sent", batch=number, worker=worker, jobs=list(jobs))
        self.prints(worker, "run", f"run {number}", batch=number)
        self("batch_done", batch=number, worker=worker, jobs=[*jobs, *later])

    def shown(self, number: int, capfd: pytest.CaptureFixture[str]) -> list[str]:
        places = self.printouts.finish(number).places
        Shown({"printed": [list(place) for place in places]}).copy_to(2)
        return capfd.readouterr().err.splitlines()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    told = Told(tmp_path)
    told.start("files")
    told.start("w", "m")
    told.prints("w", "load")
    told("model_loaded", worker="w", model="m")
    return told


def test_a_job_is_shown_all_that_a_cold_one_prints_in_its_order(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    told.job(1)
    told.job(2)
    told("batch_sent", batch=7, worker="w", jobs=[1])
    told("write_sent", worker="files", job_id=2)  # of something that needed no computing
    told.prints("files", "write", "write 2", job_id=2)
    told.prints("w", "run", "run 7", batch=7)
    told("batch_done", batch=7, worker="w", jobs=[1])
    told.prints("files", "write", "write 1", job_id=1)
    read = ["files import", "files read 1", "w load", "w run 7", "files write 1"]
    assert told.shown(1, capfd) == read
    assert told.shown(2, capfd) == ["files import", "files read 2", "files write 2"]
    assert told.shown(1, capfd) == []  # it is forgotten


def test_a_shared_batch_is_shown_to_each_with_how_many_it_was_for(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3, 4):
        told.job(number)
    told.batch(7, "w", 1, 2, later=(3,))
    told.batch(8, "w", 2)
    shared = ["w load", "gpupool: printed once for 3 jobs:", "w run 7"]
    assert told.shown(1, capfd)[2:] == shared
    assert told.shown(2, capfd)[2:] == [*shared, "w run 8"]
    assert told.shown(3, capfd)[2:] == shared
    # A job whose results were computed before is shown what was printed then.
    told.printouts.fact("job", {"request": SimpleNamespace(job_id=4), "batches": [(8, 1)]})
    assert told.shown(4, capfd)[2:] == ["w load", "gpupool: printed once for 2 jobs:", "w run 8"]


def test_of_processes_that_die_only_the_last_is_shown_and_its_exit_code_kept(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    told.job(1)
    told.job(2)
    for worker, code in (("w", 3), ("x", -9)):
        if worker != "w":
            told.start(worker, "m")
            told.prints(worker, "load")
            told("model_loaded", worker=worker, model="m")
        told("batch_sent", batch=code, worker=worker, jobs=[1])
        told.writes(worker, f"{worker} last words\n")
        told("worker_ended", worker=worker, reason="", expected=False, exit=code)
        told("batch_lost", batch=code, worker=worker)
    told("job_failed", job_id=1)
    printout = told.printouts.finish(1)
    assert printout.exit_code == 137
    Shown({"printed": printout.places}).copy_to(2)
    assert capfd.readouterr().err.splitlines()[2:] == ["x load", "x last words"]
    assert told.printouts.finish(2).exit_code is None


def test_a_death_that_a_job_outlives_leaves_nothing(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    told.printouts.add(1, "s")
    told("read_sent", worker="files", job_id=1)
    told.writes("files", "half of it\n")
    told("worker_ended", worker="files", reason="", expected=False, exit=-9)
    told.start("files2")
    told("read_sent", worker="files2", job_id=1)
    told.prints("files2", "read", job_id=1)
    told("file_done", worker="files2", job_id=1)
    assert told.shown(1, capfd) == ["files import", "files2 read"]


def test_a_death_that_a_job_outlives_gives_it_no_exit_code(told: Told) -> None:
    told.printouts.add(1, "s")
    told("read_sent", worker="files", job_id=1)
    told("worker_ended", worker="files", reason="", expected=False, exit=-9)
    told.start("files2")
    told("read_sent", worker="files2", job_id=1)
    told("file_done", worker="files2", job_id=1)
    assert told.printouts.finish(1).exit_code is None


def test_a_death_is_the_end_of_the_job_that_was_at_work(told: Told) -> None:
    for number in (1, 2):
        told.printouts.add(number, "s")
        told("read_sent", worker="files", job_id=number)
    told("worker_ended", worker="files", reason="", expected=False, exit=-9)
    for number in (1, 2):
        told("job_failed", job_id=number)
    assert [told.printouts.finish(number).exit_code for number in (1, 2)] == [137, None]


def test_a_process_that_ends_later_says_nothing_of_a_job(told: Told) -> None:
    told.job(1)
    told("worker_ended", worker="files", reason="", expected=False, exit=-9)
    told("batch_sent", batch=7, worker="w", jobs=[1])
    told("worker_ended", worker="w", reason="", expected=True, exit=-15)
    told("job_failed", job_id=1)
    assert told.printouts.finish(1).exit_code is None


@pytest.mark.parametrize("stamp", ["s", "another"])
def test_a_model_that_could_not_be_loaded_is_shown_to_later_jobs_of_its_processes(
    told: Told, stamp: str
) -> None:
    told.job(1)
    told("job_read", job_id=1, model="other")
    told("device_granted", worker="v", model="other", devices=["cpu:0"])
    told("worker_started", worker="v", stamp=stamp, devices=["cpu:0"])
    told.writes("v", "v no card\n")
    told("worker_ended", worker="v", reason="", expected=False, exit=1)
    told("job_failed", job_id=1)
    printout = told.printouts.finish(1)
    is_shown = any(place.path.endswith("v.log") for place in printout.places)
    assert (is_shown, printout.exit_code) == ((True, 1) if stamp == "s" else (False, None))


def test_it_is_forgotten_once_the_model_was_loaded(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    told.start("v", "other")
    told.writes("v", "no card\n")
    told("worker_ended", worker="v", reason="", expected=False, exit=1)
    told.start("v2", "other")
    told.prints("v2", "load")
    told("model_loaded", worker="v2", model="other")
    told.job(1)
    told("job_read", job_id=1, model="other")
    told("job_failed", job_id=1)
    printout = told.printouts.finish(1)
    assert printout.exit_code is None
    assert not any(place.path.endswith("/v.log") for place in printout.places)


def test_for_how_many_jobs_something_was_printed_is_said_of_each_place(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        told.job(number)
    told.batch(7, "w", 2)
    told.batch(8, "w", 1, 2)
    header = "gpupool: printed once for 2 jobs:"
    assert told.shown(2, capfd)[2:] == ["w load", "w run 7", header, "w run 8"]


def test_what_a_write_prints_comes_last(told: Told, capfd: pytest.CaptureFixture[str]) -> None:
    told.job(1)
    told.job(2)
    told.batch(8, "w", 1)
    told.prints("files", "write", "write 2", job_id=2)
    fields = {"request": SimpleNamespace(job_id=2), "batches": [(8, 1)]}
    told.printouts.fact("job", fields)
    assert told.shown(2, capfd)[-1] == "files write 2"


def test_a_load_that_fails_is_shown_to_the_jobs_that_waited_for_it(
    told: Told, capfd: pytest.CaptureFixture[str]
) -> None:
    told.job(1)
    told.job(2)
    told("job_read", job_id=1, model="other")
    told.start("v", "other")
    told.prints("v", "load", "no weights")
    told("job_failed", job_id=1)
    told("job_failed", job_id=2)
    assert told.shown(1, capfd)[2:] == ["v no weights"]
    assert told.shown(2, capfd)[2:] == []


def test_bytes_are_copied_as_they_are_and_what_nobody_reads_is_lost(tmp_path: Path) -> None:
    log, target = tmp_path / "log", tmp_path / "target"
    content = bytes(range(256)) * 10_000
    log.write_bytes(content)
    answer = {"printed": [[str(log), 10, len(content), 1], [str(tmp_path / "gone"), 0, 1, 1]]}
    shown = Shown(answer)
    log.unlink()  # the server has ended meanwhile
    with target.open("wb") as file:
        shown.copy_to(file.fileno())
    last = b"\ngpupool: 1 more parts of what was printed are not shown\n"
    assert target.read_bytes() == content[10:] + last
    reading, writing = os.pipe()
    os.close(reading)
    log.write_bytes(content)
    Shown(answer).copy_to(writing)  # raises nothing
    os.close(writing)
