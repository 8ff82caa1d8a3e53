"""Resources that are evaluated once are what Snakemake evaluates, whose own rule is the oracle."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.common.tbdstring import TBDString
from snakemake.resources import Resource, Resources
from snakemake.rules import Rule

from snakemake_executor_gpupool.frontends.snakemake.rule_resources import (
    RuleResources,
    evaluate_once,
)

TMPDIR = Resource.from_cli_expression("tmpdir", "system_tmpdir", with_threads_arg=True)
CONSTANTS = {"_cores": 4, "_nodes": 1, "mem_mb": 2000, "gpu": 1, "gpupool_tool": "esm2-embed"}


class OneRule:
    """A rule of Snakemake's, and how often it has evaluated."""

    def __init__(self, **resources: Any) -> None:
        bounds: dict[str, Any] = {"_cores": 8, "gpu": 4}
        settings = SimpleNamespace(max_threads=None)
        self.workflow: Any = SimpleNamespace(global_resources=bounds, resource_settings=settings)
        self.workflow.async_run = None
        self.rule: Any = Rule("embed", self.workflow, 1, "Snakefile")
        self.workflow.rules = [self.rule]
        values = {**CONSTANTS, **resources}
        self.rule.resources = Resources(
            {k: v if isinstance(v, Resource) else Resource(k, v) for k, v in values.items()}
        )
        self.usual, self.evaluated = self.rule.expand_resources, 0
        evaluate_once(self.workflow)
        self.once: RuleResources = self.rule.expand_resources
        self.once._usual = self._counting

    def _counting(self, *args: Any, **more: Any) -> Any:
        self.evaluated += 1
        return self.usual(*args, **more)

    def agree(self, attempt: int = 1, left_open: Collection[str] = ("tmpdir",)) -> Any:
        """Return what a job gets, which is what Snakemake would evaluate."""
        given = {"sample": "a"}, ["in.txt"], attempt
        found = self.once(*given, skip_evaluation=set(left_open))
        expected = self.usual(*given, skip_evaluation=set(left_open))
        assert dict(found.items()) == dict(expected.items()) and list(found) == list(expected)
        assert type(found) is type(expected)
        kinds = [type(each) for each in found], [type(each) for each in expected]
        assert kinds[0] == kinds[1]
        return found


def test_constants_are_evaluated_once_for_all_jobs() -> None:
    one = OneRule()
    for attempt in (1, 2, 3):
        found = one.agree(attempt)
        assert found.mem_mb == 2000 and found.mem == "2 GB" and found._cores == 4
    assert one.evaluated == 1


def test_what_is_left_open_stays_so_and_is_evaluated_where_it_is_not() -> None:
    one = OneRule(tmpdir=TMPDIR)
    assert isinstance(one.agree().tmpdir, TBDString) and isinstance(one.agree().tmpdir, TBDString)
    assert one.evaluated == 1
    for _ in range(2):
        assert not isinstance(one.agree(left_open=()).tmpdir, TBDString)
    assert one.evaluated == 3, "a function is called for each job"


def test_functions_are_called_for_each_job() -> None:
    one = OneRule(runtime=Resource("runtime", lambda wildcards, attempt: 10 * attempt))
    assert [one.agree(attempt).runtime for attempt in (1, 2, 3)] == [10, 20, 30]
    assert one.evaluated == 3


@pytest.mark.parametrize("what", ["resources", "bounds", "threads"])
def test_what_changes_is_evaluated_anew(what: str) -> None:
    one = OneRule()
    assert one.agree().gpu == 1 and one.agree()._cores == 4
    if what == "resources":
        one.rule.resources["gpu"] = 3
        assert one.agree().gpu == 3
    elif what == "bounds":
        one.workflow.global_resources["_cores"] = 2
        assert one.agree()._cores == 2
    else:
        one.workflow.resource_settings.max_threads = 1
        assert one.agree()._cores == 1
    one.agree()
    assert one.evaluated == 2


def test_each_job_has_a_list_of_its_own() -> None:
    one = OneRule()
    first = one.agree()
    first.update({"more": 3})
    first[0] = 77
    assert "more" not in one.agree().keys() and 77 not in one.agree()  # noqa: SIM118


def test_an_error_is_snakemakes_and_nothing_is_remembered() -> None:
    one = OneRule(_cores="four")
    for _ in range(2):
        with pytest.raises(Exception, match="type"):
            one.once({}, [], 1, skip_evaluation=set())
    assert one.evaluated == 2


def test_it_stands_in_once() -> None:
    one = OneRule()
    evaluate_once(one.workflow)
    assert one.rule.expand_resources is one.once


def test_a_snakemake_that_has_resources_in_another_way_evaluates_them_itself() -> None:
    one = OneRule()
    del one.workflow.resource_settings.max_threads
    one.usual = lambda *args, **more: "evaluated"
    assert one.once({}, [], 1, skip_evaluation=set()) == "evaluated"
    assert one.once({}, [], 1) == "evaluated" and one.evaluated == 2
