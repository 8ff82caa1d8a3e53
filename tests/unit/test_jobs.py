"""Jobs and their items: who waits for what, whose result is whose, who hears of errors (W1, W2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents
from snakemake_executor_gpupool.scheduling.effects import Note, Outbox, Report
from snakemake_executor_gpupool.scheduling.job_state import JobState, explain
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

ERROR = WorkerError("bad", kind="tool", type="ValueError")


class Table:
    """A table of jobs without a scheduler."""

    def __init__(self) -> None:
        self.ledger, self.outbox = ResultLedger(), Outbox()
        self.jobs = JobTable(self.ledger, self.outbox, DomainEvents())
        self.work_items: dict[str, WorkItem] = {}

    def read(self, job_id: int, *items: str) -> JobState:
        """Take a job in, and its items."""
        request = Request(job_id, f"rule r (n={job_id})", ToolRef("t", "", "p"), b"", b"", "/")
        job = self.jobs.add(request)
        for item in items:
            work_item = WorkItem(item, "g", 1.0, 1, item.encode(), f"{item} of {job_id}", (0, 1), 0)
            self.jobs.place(job, [work_item])
            self.work_items[item] = job.items[-1]
        self.jobs.read_complete(job)
        return job

    def done(self, item: str) -> None:
        self.jobs.items_done([self.work_items[item]], [f"{item}!".encode()], "w1", seconds=1.0)

    def reports(self) -> dict[int, JobReport]:
        """What was reported since the last look."""
        effects = [e for e in self.outbox.take() if not isinstance(e, Note)]
        assert all(isinstance(effect, Report) for effect in effects)
        return {e.report.job_id: e.report for e in effects if isinstance(e, Report)}


def gathered(job: JobState) -> list[Any]:
    order, blobs = job.gather()
    return [blobs[place] for place in order]


def test_every_item_gets_its_own_result_in_the_jobs_order() -> None:
    table = Table()
    first, second = table.read(1, "b", "a", "b", "c"), table.read(2, "c", "b")
    for item in "cab":
        table.done(item)
    assert first.is_computed and second.is_computed
    assert gathered(first) == [b"b!", b"a!", b"b!", b"c!"]
    assert gathered(second) == [b"c!", b"b!"]
    assert len(first.gather()[1]) == 3, "equal results travel once"


def test_a_failed_item_fails_every_job_that_has_it_and_no_other() -> None:  # W2
    table = Table()
    table.read(1, "x", "bad")
    table.read(2, "y")
    table.read(3, "bad")
    table.jobs.item_failed(table.work_items["bad"], ERROR)
    reports = table.reports()
    assert set(reports) == {1, 3} and table.jobs.ids() == [2]
    assert reports[1].error == "rule r (n=1): item bad of 1: ValueError: bad"
    assert reports[3].error == "rule r (n=3): item bad of 3: ValueError: bad"
    table.done("y")
    assert gathered(table.jobs[2]) == [b"y!"]


def test_nobody_waits_for_an_item_whose_jobs_have_ended() -> None:  # S10
    """Else workers would compute on for a job that was cancelled."""
    table = Table()
    ended = table.read(1, "x", "shared")
    table.read(2, "shared")
    table.jobs.fail(ended, "cancelled")
    assert table.work_items["x"].waiters == () and table.work_items["shared"].waiters == (2,)
    table.done("x")  # it was under way: its result is nobody's
    table.done("shared")
    assert table.reports().keys() == {1} and gathered(table.jobs[2]) == [b"shared!"]


def test_a_job_that_is_read_again_waits_for_each_item_once() -> None:  # W4
    table = Table()
    job = table.read(1, "a", "b")
    table.jobs.forget_items(job)
    assert table.work_items["a"].waiters == () and job.missing == 0 and not job.all_read
    for item in ("a", "c"):
        work_item = WorkItem(item, "g", 1.0, 1, b"", item, (0, 1), 0)
        table.jobs.place(job, [work_item])
        table.work_items[item] = job.items[-1]
    table.jobs.read_complete(job)
    table.done("a")
    assert not job.is_computed
    table.done("c")
    assert gathered(job) == [b"a!", b"c!"]


def test_results_of_a_call_are_lent_until_it_has_read_them() -> None:
    table = Table()
    job = table.read(1, "a", "a")
    job.wants_results = True
    table.done("a")
    table.jobs.succeed(job)
    report = table.reports()[1]
    assert report.error is None and report.details == {
        "order": [0, 0],
        "blobs": [b"a!"],
        "settled": (),
    }
    assert table.work_items["a"].holders == 2
    table.jobs.take_back(1)
    table.jobs.take_back(1)
    assert table.work_items["a"].holders == 0


def test_a_withdrawn_job_is_neither_served_nor_failed() -> None:
    table = Table()
    table.jobs.withdraw(table.read(1, "a"))
    report = table.reports()[1]
    assert report.withdrawn and (table.jobs.served, table.jobs.failed) == (0, 0)
    assert table.work_items["a"].waiters == ()


def test_time_is_shared_among_the_places_of_an_item() -> None:
    table = Table()
    first, second = table.read(1, "a"), table.read(2, "a", "a")
    table.done("a")
    assert first.seconds == pytest.approx(1 / 3) and second.seconds == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (replace(ERROR, traceback="at line 3\n"), "rule r (n=1): x: ValueError: bad\nat line 3"),
        (replace(ERROR, kind="input", traceback="hidden"), "rule r (n=1): x: bad"),
    ],
)
def test_how_an_error_reads(error: WorkerError, text: str) -> None:
    assert explain(Table().read(1), error, "x") == text
