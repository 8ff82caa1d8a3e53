"""What follows a job is found out once, and is never what a ready job is served with (M1, P6)."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.io import IOFile
from snakemake.iocontainers import Params, ResourceList

from snakemake_executor_gpupool.frontends.snakemake.early_values import is_settled
from snakemake_executor_gpupool.frontends.snakemake.following import Following
from snakemake_executor_gpupool.frontends.snakemake.translate import TOOL, open_value
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
    rows = Rows(directory, model=1, sizes=[1, 2], more={"a": Path("b")})
    _, guessed = rows.after(rows.first)
    rows.finish(rows.first)
    rows.third.evaluated = dict.fromkeys(rows.third.evaluated, 0)
    assert rows.after(rows.second) == (guessed,)
    assert rows.third.evaluated == {"params": 0, "resources": 0}
    rows.finish(rows.second)
    assert rows.after(rows.third) == ()
    assert rows.after(rows.second) == (guessed,) and rows.third.evaluated["params"] == 1, (
        "nothing is kept of what is ready"
    )


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
