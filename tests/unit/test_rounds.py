"""Snakemake's scheduler looks once after jobs that end together, and never not at all."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from snakemake_executor_gpupool.frontends.snakemake.rounds import merge_rounds


class Scheduler:
    """Waits and looks as Snakemake's does."""

    def __init__(self, jobs: int) -> None:
        self._open_jobs = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._ended: list[int] = []
        self._jobs = jobs
        self.seen: list[int] = []
        self.rounds = 0

    def finish_callback(self, job: int) -> None:
        with self._lock:
            self._ended.append(job)
            self._open_jobs.release()

    def schedule(self) -> None:
        while len(self.seen) < self._jobs:
            assert self._open_jobs.acquire(timeout=10.0), "it waits for ever"
            self.rounds += 1
            with self._lock:
                self.seen += self._ended
                self._ended.clear()


def test_one_look_for_all_that_have_ended_meanwhile() -> None:
    scheduler = Scheduler(100)
    for number in range(100):
        scheduler.finish_callback(number)
        merge_rounds(scheduler)
    scheduler.schedule()
    assert scheduler.seen == list(range(100))
    assert scheduler.rounds == 1
    assert not scheduler._open_jobs.acquire(blocking=False), "no look is left to do"


def test_no_job_is_left_unseen_whoever_reports_meanwhile() -> None:
    jobs, threads = 3000, 3
    scheduler = Scheduler(jobs * threads)

    def report(first: int, *, merges: bool) -> None:
        for number in range(first, first + jobs):
            scheduler.finish_callback(number)
            if merges:
                merge_rounds(scheduler)

    each = [
        threading.Thread(target=report, args=(jobs * n,), kwargs={"merges": n > 0})
        for n in range(threads)
    ]
    for thread in each:
        thread.start()
    scheduler.schedule()
    for thread in each:
        thread.join()
    assert sorted(scheduler.seen) == list(range(jobs * threads))


def test_another_kind_of_scheduler_is_left_alone() -> None:
    merge_rounds(SimpleNamespace())
    merge_rounds(SimpleNamespace(_open_jobs=object()))
    nothing = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    merge_rounds(nothing)
    assert not nothing._open_jobs.acquire(blocking=False)
