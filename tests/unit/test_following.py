"""What follows a job is found out once, and is never what a ready job is served with (M1, P6)."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.io import IOFile
from snakemake.iocontainers import Params, ResourceList

from snakemake_executor_gpupool.frontends.snakemake.early_values import has_same, is_settled
from snakemake_executor_gpupool.frontends.snakemake.following import Following
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    TOOL,
    build_request,
    open_value,
)
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from tests.unit.stub_workflow import StubDag, StubJob


class LateJob(StubJob):
    """A job whose params and resources are evaluated when they are asked for, as Snakemake's are.

    Attributes
    ----------
    evaluated
        How often each was.
    """

    def __init__(self, workflow: Any, name: str, params: dict[str, Any], **files: Any) -> None:
        super().__init__(workflow, name, gpupool_tool="tool", **files)
        self.rule.resources = resources_of(gpupool_tool="tool", tmpdir=open_value()())
        self.rule.params = Params(fromdict=params)
        self._params = self._non_derived_params = self._resources = None
        self._aux_resources: dict[str, Any] = {}
        self.evaluated = {"params": 0, "resources": 0}

    @property
    def resources(self) -> Any:
        if self._resources is None:
            self.evaluated["resources"] += 1
            named = {name: each.value for name, each in self.rule.resources.items()}
            self._resources = ResourceList(fromdict={"_cores": 1, "_nodes": 1, **named})
        return self._resources

    @property
    def params(self) -> Any:
        if self._params is None:
            self.evaluated["params"] += 1
            values = {
                name: value(self) if callable(value) else value
                for name, value in self.rule.params.items()
            }
            self._params = Params(fromdict=values)
            self._non_derived_params = list(values.values())
        return self._params


def resources_of(**values: Any) -> dict[str, Any]:
    """Return a rule's resources; what is a function, or left open, is evaluated."""
    return {
        name: SimpleNamespace(
            value=value,
            raw="system_tmpdir" if name == "tmpdir" else value,
            is_evaluable=lambda value=value: callable(value) or isinstance(value, open_value()),
        )
        for name, value in values.items()
    }


class Rows:
    """Rows of three jobs, and what follows the first ones.

    Attributes
    ----------
    first, second, third
        The jobs of one row.
    """

    def __init__(self, directory: Path, **params: Any) -> None:
        self.workflow: Any = SimpleNamespace(
            jobs=[],
            persistence=SimpleNamespace(path=directory),
            deployment_settings=SimpleNamespace(deployment_method=frozenset()),
        )
        self.workflow.dag = StubDag(self.workflow)
        self.here = str(directory)
        self.first = self.job("first", "in.txt", {})
        self.second = self.job("second", "first.txt", params, self.first)
        self.third = self.job("third", "second.txt", params, self.second)
        self.following = Following(self.workflow, lambda job: TOOL_REF, lambda job: False)

    def job(self, name: str, source: str, params: dict[str, Any], *after: LateJob) -> LateJob:
        job = LateJob(self.workflow, name, params, inputs=[source])
        job.reads(*after)
        return job

    def after(self, job: LateJob) -> tuple[Request, ...]:
        return self.following.requests(job, self.here)

    def ready(self, job: LateJob, job_id: int = 7) -> Request | None:
        return self.following.request(job, job_id, self.here)

    def finish(self, job: LateJob) -> None:
        self.workflow.dag.done.add(job)


TOOL_REF = ToolRef("tool", "", "python")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_job_is_evaluated_once_in_a_look_and_left_as_it_was(directory: Path) -> None:
    rows = Rows(directory, model=lambda job: 1)
    assert [request.identity[0] for request in rows.after(rows.first)] == ["second", "third"]
    for job in (rows.second, rows.third):
        assert job.evaluated["resources"] == 1
        assert (job._params, job._non_derived_params, job._resources) == (None, None, None)
    rows.after(rows.first)
    assert rows.third.evaluated["resources"] == 2, "files may have changed since"


def test_a_request_that_depends_on_no_file_is_built_once(directory: Path) -> None:
    rows = Rows(directory, model=1, sizes=[1, 2], more={"a": "b"})
    _, guessed = rows.after(rows.first)
    rows.finish(rows.first)
    rows.third.evaluated = dict.fromkeys(rows.third.evaluated, 0)
    assert rows.after(rows.second) == (guessed,)
    assert rows.third.evaluated == {"params": 0, "resources": 0}
    rows.finish(rows.second)
    assert rows.after(rows.third) == ()
    served = rows.ready(rows.third)
    assert served is not None and served.params is guessed.params
    assert rows.ready(rows.third) is None, "nothing is kept of what is ready"


@pytest.mark.parametrize("value", [lambda job: len(list(Path().iterdir())), lambda job: 1])
def test_params_that_may_be_functions_of_files_are_evaluated_anew(
    directory: Path, value: Any
) -> None:
    rows = Rows(directory, model=value)
    rows.after(rows.first)
    Path("new.txt").touch()
    rows.finish(rows.first)
    (request,) = rows.after(rows.second)
    assert pickle.loads(request.params)["model"] == value(rows.third)
    assert rows.third.evaluated["params"] == 2


def test_a_job_that_has_become_another_one_is_built_anew(directory: Path) -> None:
    rows = Rows(directory, model=1)
    _, guessed = rows.after(rows.first)
    rows.finish(rows.first)
    rows.third.attempt = 2
    (retried,) = rows.after(rows.second)
    assert (guessed.attempt, retried.attempt) == (1, 2)
    rows.third.input[0] = IOFile("second.txt.more")
    (other,) = rows.after(rows.second)
    assert pickle.loads(other.bare).input[0] == "second.txt.more"
    # What a checkpoint leads to replaces jobs by others of the same name.
    rows.workflow.dag.depending[rows.second].clear()
    replaced = rows.job("third", "second.txt", {"model": 2}, rows.second)
    (request,) = rows.after(rows.second)
    assert pickle.loads(request.params) == {"model": 2} and replaced.evaluated["params"] == 1


def test_another_directory_is_another_request(directory: Path) -> None:
    rows = Rows(directory, model=1)
    _, guessed = rows.after(rows.first)
    (elsewhere,) = rows.following.requests(rows.second, "/elsewhere")
    assert (guessed.cwd, elsewhere.cwd) == (str(directory), "/elsewhere")


def test_what_may_depend_on_files_is_not_taken_to_be_settled() -> None:
    flagged = type("AnnotatedString", (str,), {"callable": len})("<TBD>")

    def rule(resources: dict[str, Any] | None = None, **params: Any) -> Any:
        named = resources_of(tmpdir=open_value()()) | (resources or {})
        return SimpleNamespace(params=Params(fromdict=params), resources=named)

    assert is_settled(rule(a=1, b="x", c=[1.5, None, {"d": (True,)}], e=Path("f")))
    for value in (len, flagged, [len], {"a": [len]}, object()):
        assert not is_settled(rule(a=value)), value
    assert not is_settled(rule(resources_of(mem_mb=len)))
    own = resources_of(tmpdir=open_value()())
    own["tmpdir"].raw = "str(input[0])"
    assert not is_settled(rule(own))


def test_a_guess_says_nothing_of_resources_and_a_ready_job_does(directory: Path) -> None:
    rows = Rows(directory, model=1)
    guessed, _ = rows.after(rows.first)
    assert dict(pickle.loads(guessed.job).resources) == {}
    assert guessed.job == guessed.bare and TOOL not in pickle.loads(guessed.params)


# -- a job that was guessed is ready -----------------------------------------------------------
def anew(rows: Rows, job: LateJob) -> Request:
    return build_request(rows.workflow, job, 7, TOOL_REF, here=rows.here)


@pytest.mark.parametrize(
    "params", [{"model": 1, "sizes": [1, 2], "more": {"a": [None, 1.5]}}, {}, {"text": "{name}"}]
)
def test_a_ready_job_is_served_as_if_nobody_had_guessed(
    directory: Path, params: dict[str, Any]
) -> None:
    rows = Rows(directory, **params)
    (directory / "first.txt").write_text("four")
    _, third = rows.after(rows.first)
    rows.finish(rows.first)
    (request, expected) = rows.ready(rows.second), anew(rows, rows.second)
    assert request is not None and request.follow == (third,)
    assert request.changed(follow=()) == expected and request.facts == expected.facts
    assert request.input_bytes == 4 and request.facts.recipe
    seen, to_see = pickle.loads(request.job), pickle.loads(expected.job)
    assert vars(seen) == vars(to_see) and dict(seen.resources)["gpupool_tool"] == "tool"


def test_a_ready_job_that_has_changed_is_built_anew(directory: Path) -> None:
    def changed(change: Callable[[Rows], object]) -> Request | None:
        rows = Rows(directory, sizes=[1, 2], model=1)
        rows.after(rows.first)
        rows.finish(rows.first)
        change(rows)
        return rows.ready(rows.second)

    assert changed(lambda rows: None) is not None
    assert changed(lambda rows: setattr(rows.second, "attempt", 2)) is None
    assert changed(lambda rows: rows.second.rule.params.sizes.append(3)) is None
    assert changed(lambda rows: rows.second.output.append(IOFile("more.txt"))) is None
    assert changed(lambda rows: rows.second.output._add_name("named")) is None
    assert changed(lambda rows: setattr(rows.second, "shadow_dir", "s")) is None
    assert changed(lambda rows: setattr(rows, "here", "/elsewhere")) is None
    other = dataclasses.replace(TOOL_REF, spec="another")
    assert changed(lambda rows: setattr(rows.following, "_tool_of", lambda job: other)) is None


def test_what_depends_on_files_is_built_once_it_is_ready(directory: Path) -> None:
    rows = Rows(directory, model=lambda job: len(list(Path().iterdir())))
    rows.after(rows.first)
    Path("new.txt").touch()
    rows.finish(rows.first)
    assert rows.ready(rows.second) is None


# -- what all jobs of a rule have ----------------------------------------------------------------
def test_jobs_of_a_rule_that_have_the_same_are_evaluated_once(directory: Path) -> None:
    rows = Rows(directory, model=1)
    rows.after(rows.first)
    another = rows.job("first", "other.txt", {})
    later = rows.job("second", "first.txt", {}, another)
    later.rule = rows.second.rule
    (request,) = rows.after(another)
    assert later.evaluated == {"params": 0, "resources": 0}
    assert pickle.loads(request.params) == {"model": 1}
    assert (later._params, later._resources) == (None, None)


@pytest.mark.parametrize(
    ("params", "same"),
    [
        ({"a": 1, "b": "x", "c": ["y", 2], "d": {"{": 1}}, True),
        ({"a": "{sample}"}, False),
        ({"a": ["x", "{sample}"]}, False),
        ({"a": len}, False),
    ],
)
def test_what_wildcards_are_put_into_differs(params: dict[str, Any], same: bool) -> None:
    rule = SimpleNamespace(params=Params(fromdict=params), resources=resources_of(mem_mb=1))
    assert has_same(rule) is same


def test_a_job_with_resources_of_its_own_is_evaluated(directory: Path) -> None:
    rows = Rows(directory, model=1)
    rows.after(rows.first)
    rows.second._aux_resources = {"more": 1}
    rows.after(rows.first)
    assert rows.second.evaluated["resources"] == 2 and rows.third.evaluated["resources"] == 1


def test_a_rule_that_names_no_tool_does_not_follow(directory: Path) -> None:
    rows = Rows(directory, model=1)
    rows.third.rule.resources = resources_of(gpupool_tool="", tmpdir=open_value()())
    assert len(rows.after(rows.first)) == 1 == len(rows.after(rows.first))
