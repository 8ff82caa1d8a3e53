"""A call from Python gets its job's report, or an error, and never waits for ever (P9)."""

from __future__ import annotations

import threading

import pytest

from snakemake_executor_gpupool.errors import JobFailed, PoolEnded
from snakemake_executor_gpupool.frontends.python.pending import PendingCalls
from snakemake_executor_gpupool.wire.requests import JobReport


@pytest.fixture
def discarded() -> list[int]:
    return []


@pytest.fixture
def calls(discarded: list[int]) -> PendingCalls:
    return PendingCalls(discarded.append)


def test_a_call_gets_the_report_of_its_job(calls: PendingCalls, discarded: list[int]) -> None:
    one, other = calls.new_id(), calls.new_id()

    def submit() -> None:
        for job_id in (other, one):
            calls.report(JobReport(job_id, details={"of": job_id}))

    assert calls.wait(one, "t", submit).details == {"of": one}
    assert discarded == [other], "nobody waits for it"


def test_an_error_names_tool_and_item(calls: PendingCalls) -> None:
    with pytest.raises(JobFailed) as failed:
        calls.wait(1, "esm2-embed", lambda: calls.report(JobReport(1, error="item p1: too long")))
    assert (failed.value.tool, failed.value.message) == ("esm2-embed", "item p1: too long")


def test_a_pool_that_refuses_is_not_waited_for(calls: PendingCalls) -> None:
    def refused() -> None:
        raise PoolEnded("it is closed")

    with pytest.raises(PoolEnded, match="it is closed"):
        calls.wait(1, "t", refused)
    calls.end(PoolEnded("later"))


def test_the_end_of_the_pool_is_the_end_of_every_call(calls: PendingCalls) -> None:
    ended: list[BaseException] = []
    submitted = [threading.Event() for _ in range(3)]

    def call(number: int) -> None:
        try:
            calls.wait(number, "t", submitted[number].set)
        except PoolEnded as error:
            ended.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert all(event.wait(10) for event in submitted)
    bug = ZeroDivisionError("a bug")
    calls.end(PoolEnded("it has failed"), bug)
    for thread in threads:
        thread.join(10)
    assert len(ended) == 3
    assert all(error.__cause__ is bug for error in ended)


@pytest.mark.parametrize("is_reported", [False, True])
def test_results_of_an_interrupted_call_are_given_up(
    is_reported: bool, calls: PendingCalls, discarded: list[int]
) -> None:
    """Whether the report is there already, or comes later."""

    def interrupted() -> None:
        if is_reported:
            calls.report(JobReport(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calls.wait(1, "t", interrupted)
    assert discarded == [1], "at once: it may be computed no further"
    if not is_reported:
        calls.report(JobReport(1))
        assert discarded == [1, 1]
