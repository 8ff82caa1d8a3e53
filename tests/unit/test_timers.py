"""At a run's end Snakemake's timers are not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from snakemake_executor_gpupool.frontends.snakemake.timers import drop_timers


def scheduler() -> JobScheduler:
    """The real one, as far as its timers need it."""
    made = object.__new__(JobScheduler)
    made._open_jobs = threading.Semaphore(0)
    return made


@pytest.fixture(autouse=True)
def no_timer_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for each in set(threading.enumerate()) - before:
        if isinstance(each, threading.Timer):
            each.cancel()


def started_by(owner: JobScheduler) -> threading.Thread:
    before = set(threading.enumerate())
    owner._schedule_reevalutation(1000)
    (timer,) = set(threading.enumerate()) - before
    return timer


def test_a_scheduler_s_own_timers_end_and_no_others() -> None:
    mine, other = scheduler(), scheduler()
    ending, staying = started_by(mine), started_by(other)
    strange = threading.Timer(1000, mine._open_jobs.release)
    strange.start()
    drop_timers(mine)
    ending.join(10)
    assert not ending.is_alive()
    assert staying.is_alive() and strange.is_alive()
    assert not mine._open_jobs.acquire(blocking=False), "it has not been told to look again"
