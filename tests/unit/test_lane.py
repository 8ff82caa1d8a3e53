"""Who starts next in the lane of CPU jobs (S6)."""

from __future__ import annotations

from snakemake_executor_gpupool.frontends.snakemake.admission import (
    MAX_OVERTAKES,
    Admission,
    LaneJob,
)


def lane_job(name: str, threads: int = 1, priority: float = 0) -> LaneJob:
    return LaneJob(name, threads, lambda failure: None, priority=priority)


def admitted(admission: Admission) -> list[str]:
    return [job.job for job in admission.admit()]


def test_the_highest_priority_is_first_and_equals_keep_their_order() -> None:
    admission = Admission(budget=1)
    jobs = [lane_job("a"), lane_job("b", priority=3.14), lane_job("c"), lane_job("d", priority=5)]
    jobs += [lane_job("e", priority=3.14), lane_job("f", priority=-1), lane_job("g")]
    for job in jobs:
        admission.add(job)
    order = []
    for _ in jobs:
        order += admitted(admission)
        admission.release(jobs[0])
    assert "".join(order) == "dbeacgf"


def test_small_jobs_pass_a_wide_one_for_a_while() -> None:
    admission = Admission(budget=4)
    running = lane_job("running", threads=2)
    for job in (running, lane_job("wide", threads=4)):
        admission.add(job)
    assert admitted(admission) == ["running"]
    passed = 0
    while passed < 2 * MAX_OVERTAKES:
        small = lane_job("small")
        admission.add(small)
        if not admitted(admission):
            break
        passed += 1
        admission.release(small)
    assert passed == MAX_OVERTAKES
    admission.release(running)
    assert admitted(admission) == ["wide"]


def test_what_goes_on_with_something_waits_on_when_nothing_new_is_to_start() -> None:
    admission = Admission(budget=1)
    for name, is_new in (("running", True), ("a", True), ("rest", False), ("b", True)):
        job = lane_job(name)
        job.withdrawn = (lambda: None) if is_new else None
        admission.add(job)
    assert admitted(admission) == ["running"]
    assert [job.job for job in admission.take_new()] == ["a", "b"]
    admission.release(lane_job("running"))
    assert admitted(admission) == ["rest"]


def test_memory_is_never_promised_twice() -> None:  # K3
    admission = Admission(budget=8, memory_mb=100)
    jobs = {name: lane_job(name) for name in "abcd"}
    for job, memory_mb in zip(jobs.values(), (60, 60, 40, 0), strict=True):
        job.memory_mb = memory_mb
        admission.add(job)
    assert admitted(admission) == ["a", "c", "d"]
    admission.release(jobs["c"])
    assert admitted(admission) == []
    admission.release(jobs["a"])
    assert admitted(admission) == ["b"]


def test_one_that_asks_for_much_memory_is_not_passed_for_ever() -> None:
    admission = Admission(budget=8, memory_mb=100)
    running, large = lane_job("running"), lane_job("large")
    running.memory_mb, large.memory_mb = 50, 100
    for job in (running, large):
        admission.add(job)
    assert admitted(admission) == ["running"]
    passed = 0
    for _ in range(2 * MAX_OVERTAKES):
        small = lane_job("small")
        small.memory_mb = 1
        admission.add(small)
        started = admission.admit()
        passed += len(started)
        for job in started:
            admission.release(job)
    assert passed == MAX_OVERTAKES
    admission.release(running)
    assert admitted(admission)[0] == "large"
