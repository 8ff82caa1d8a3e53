"""Jobs that share a model or a batch have the same params wherever a method reads them (C1)."""

from __future__ import annotations

import sys
import types
from typing import Any, ClassVar
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import UndeclaredParam
from snakemake_executor_gpupool.tool_api.contract import checked_run
from snakemake_executor_gpupool.tool_api.declared import Declaration, DeclaredParams
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker import baseline
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files


def params_of(tool: type[Tool], method: str, values: dict[str, Any]) -> DeclaredParams:
    return DeclaredParams({**tool.defaults, **values}, Declaration(tool, method))


class Whole(Tool):
    """Reads all at once."""

    def load(self, device: str) -> None:
        dict(self.params)

    def run(self, items: list[Any]) -> list[Any]:
        return [dict(self.params)]


class WholeRun(Tool):
    """Reads all at once where it computes."""

    def run(self, items: list[Any]) -> list[Any]:
        return [dict(self.params)]


class Named(Tool):
    """Reads one by one."""

    def load(self, device: str) -> None:
        self.params.get("a")

    def run(self, items: list[Any]) -> list[Any]:
        return [self.params.b]


NAMES = ("model", "a", "b", "c")


def described(kind: type[Tool], jobs: Any) -> list[dict[str, Any]]:
    """Describe models of one class, whose code is always the same."""
    with mock.patch("snakemake_executor_gpupool.worker.describe.code_digest", return_value=""):
        return [describe_model(for_files(kind, job)) for job in jobs]


values = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1))
subset = st.lists(st.sampled_from(NAMES), unique=True).map(tuple)


@settings(max_examples=100, deadline=None)
@given(
    base=st.sampled_from([Whole, WholeRun, Named]),
    reload_on=subset,
    write_params=subset,
    defaults=values,
    jobs=st.tuples(values, values),
)
def test_jobs_that_share_see_the_same(
    base: Any, reload_on: Any, write_params: Any, defaults: ClassVar[dict[str, Any]], jobs: Any
) -> None:  # C1
    attributes = {"reload_on": reload_on, "write_params": write_params, "defaults": defaults}
    kind = type("Kind", (base,), attributes)
    keys = described(kind, jobs)

    def seen(job: dict[str, Any], method: str) -> list[Any]:
        found: list[Any] = []
        for way in [
            *(lambda p, n=n: p.get(n) for n in NAMES),
            *([dict] * (base is Whole or (base is WholeRun and method == "run"))),
        ]:
            try:
                found.append(way(params_of(kind, method, job)))
            except UndeclaredParam:
                found.append("refused")
        return found

    if keys[0]["model"] == keys[1]["model"]:
        assert seen(jobs[0], "load") == seen(jobs[1], "load")
        if keys[0]["group"] == keys[1]["group"]:
            assert seen(jobs[0], "run") == seen(jobs[1], "run")


class Lazy(Tool):
    """Keeps what it has made of params."""

    def run(self, items: list[Any]) -> list[Any]:
        if not hasattr(self, "made"):
            self.made = (self.params.get("a"), self.params.get("b"))
        return [self.made]


def only_this_module(tool_class: type) -> list[types.ModuleType]:
    """The modules of a tool; those beside it are all tests, whose state takes long to keep."""
    return [sys.modules[__name__]]


@mock.patch.object(baseline, "own_modules", only_this_module)
@settings(max_examples=100, deadline=None)
@given(
    base=st.sampled_from([Whole, WholeRun, Named, Lazy]),
    reload_on=subset,
    write_params=subset,
    defaults=values,
    jobs=st.lists(values, min_size=2, max_size=5),
)
def test_a_loaded_tool_serves_each_job_as_if_it_were_the_first(
    base: Any, reload_on: Any, write_params: Any, defaults: Any, jobs: Any
) -> None:  # C1
    attributes = {"reload_on": reload_on, "write_params": write_params, "defaults": defaults}
    kind = type("Kind", (base,), attributes)
    keys = described(kind, jobs)
    jobs = [job for job, key in zip(jobs, keys, strict=True) if key["model"] == keys[0]["model"]]

    def outcome(call: Any) -> Any:
        try:
            return call()
        except (UndeclaredParam, AttributeError) as error:
            return type(error)

    def fresh(job: dict[str, Any]) -> Any:
        loaded = LoadedTool(kind, job)
        loaded.load("cpu")
        return checked_run(loaded.show(job), ["x"])

    try:
        shared = LoadedTool(kind, jobs[0])
        shared.load("cpu")
    except UndeclaredParam:
        assert all(outcome(lambda job=job: fresh(job)) is UndeclaredParam for job in jobs)
        return
    for job in jobs:
        served = outcome(lambda job=job: checked_run(shared.show(job), ["x"]))
        assert served == outcome(lambda job=job: fresh(job))
