"""Groups run member by member: who may start when, and what a failure does (S7, D11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake import groups
from snakemake_executor_gpupool.frontends.snakemake.groups import GroupRun, Unit, units_of
from snakemake_executor_gpupool.wire.requests import JobReport


class StubDag:
    """Who reads whose outputs."""

    def __init__(self) -> None:
        self.dependencies: dict[Any, list[Any]] = {}


@dataclass(eq=False)
class StubJob:
    """A member: its name, and what joins it to others."""

    name: str
    dag: StubDag
    pipe_group: object = None
    rule: Any = None
    wildcards_dict: dict[str, str] = field(default_factory=dict)

    def is_group(self) -> bool:
        return False

    def __post_init__(self) -> None:
        self.rule = self


class Run:
    """A group run whose members are started by hand."""

    def __init__(self, reads: dict[str, str], joined: Iterable[str] = ()) -> None:
        dag, pipe = StubDag(), object()
        self.jobs = {name: StubJob(name, dag, pipe if name in joined else None) for name in reads}
        for name, before in reads.items():
            dag.dependencies[self.jobs[name]] = [self.jobs[other] for other in before]
        self.running: dict[str, Callable[[JobReport], None]] = {}
        self.reports: list[str | None] = []
        self.goes_on: dict[str, bool] = {}
        self.report = JobReport(0)
        self.refused: set[str] = set()
        group: Any = type("Group", (), {"toposorted": [list(self.jobs.values())]})
        GroupRun(group, self.start, lambda act: act(), self.ended).start()

    def start(self, unit: Unit, done: Callable[[JobReport], None], goes_on: bool) -> None:
        name = "".join(job.name for job in unit)
        if name in self.refused:
            raise ValueError("refused")
        assert name not in self.running
        self.running[name] = done
        self.goes_on[name] = goes_on

    def ended(self, report: JobReport) -> None:
        self.reports.append(report.error)
        self.report = report

    def end(self, name: str, error: str | None = None) -> None:
        self.running.pop(name)(JobReport(0, error))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The members whose outputs were put in place, in order."""
    names: list[str] = []
    monkeypatch.setattr(groups, "evaluate_here", lambda job: None)

    def settle(
        run: GroupRun, unit: Unit, over: frozenset[Any], *, is_awaited: bool
    ) -> dict[Any, JobReport]:
        assert over.issuperset(unit)
        names.extend(job.name for job in unit if is_awaited)
        return {}

    monkeypatch.setattr(GroupRun, "_settled", settle)
    return names


def test_members_start_as_soon_as_those_before_them_are_done(settled: list[str]) -> None:
    run = Run({"a": "", "b": "", "c": "a", "d": "bc"})
    assert set(run.running) == {"a", "b"}
    run.end("a")
    assert set(run.running) == {"b", "c"} and settled == ["a"]
    run.end("c")
    run.end("b")
    assert set(run.running) == {"d"} and run.reports == []
    run.end("d")
    assert run.reports == [None]
    assert settled == ["a", "c", "b"]  # nobody in the group waits for d


def test_joined_members_start_together() -> None:
    run = Run({"a": "", "p": "a", "q": "p", "z": "q"}, joined="pq")
    run.end("a")
    assert set(run.running) == {"pq"}
    run.end("pq")
    assert set(run.running) == {"z"}


def test_after_a_failure_nothing_starts_and_what_runs_is_waited_for() -> None:
    run = Run({"a": "", "b": "", "c": "b", "d": "a"})
    run.end("a", "a is broken")
    assert set(run.running) == {"b"} and run.reports == []
    run.end("b")
    assert run.running == {} and run.reports == ["a is broken"]


def test_an_error_without_words_is_one() -> None:
    run = Run({"a": "", "b": "a"})
    run.end("a", "")  # the child has printed what is wrong
    assert run.running == {} and run.reports == [""]


def test_a_member_that_cannot_be_started_fails_the_group_by_name() -> None:
    run = Run({"a": "", "b": "a"})
    run.refused = {"b"}
    run.end("a")
    assert run.reports == ["rule b: refused"]


def test_a_failure_is_told_of_each_member_that_failed() -> None:
    run = Run({"a": "", "b": "", "c": "ab"})
    run.end("a", "a is broken")
    run.end("b", "b, too")
    told = run.report.details["members"]
    assert isinstance(told, dict)
    assert {job.name: report.error for job, report in told.items()} == {
        "a": "a is broken",
        "b": "b, too",
    }


def test_a_group_that_has_begun_goes_on_and_another_is_not_started() -> None:
    run = Run({"a": "", "b": "a"})
    assert run.goes_on == {"a": False}
    run.end("a")
    assert run.goes_on == {"a": False, "b": True}
    run = Run({"a": "", "b": "", "c": "b"})
    run.running.pop("a")(JobReport(0, "not started", withdrawn=True))
    run.end("b")
    assert run.running == {} and run.report.withdrawn and run.reports == ["not started"]


def test_units() -> None:
    run = Run({"a": "", "p": "a", "q": "p"}, joined="pq")
    assert [[job.name for job in unit] for unit in units_of(run.jobs.values())] == [
        ["a"],
        ["p", "q"],
    ]
