"""What is still to come of Snakemake's graph of jobs, told to the pool whenever it has changed."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.following import is_known, untouched
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    TOOL,
    is_served,
    plain,
    tool_name,
)
from snakemake_executor_gpupool.records.reference import RESOURCES
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Node, forecast_of

#: So long may a rule's params take for a job, and all of them for each job of the graph; what takes
#: longer is not known before its jobs are ready.
MAX_EVALUATION_S = 2e-2
EVALUATION_S_PER_JOB = 4e-5
#: A graph is looked at again when so many times what that took has passed.
PAUSE = 200.0
#: If the jobs of a rule differ in more ways, they are taken for one kind: most params do not choose
#: a model.
MAX_KINDS_PER_RULE = 16
#: What functions of a rule may take for their values to be known before its inputs are there.
KNOWN_ARGUMENTS = {"wildcards"}


@dataclass(frozen=True)
class _Rule:
    """What is known of a rule's jobs beforehand.

    Attributes
    ----------
    kind
        Of all of its jobs; empty: each has its own, as far as ``is_evaluable``.
    """

    tool: str
    kind: str
    is_evaluable: bool


class Foreseeing:
    """Makes forecasts of a workflow's graph; used by Snakemake's main thread alone.

    Attributes
    ----------
    spent_s
        What that took so far.
    """

    def __init__(self, workflow: Any) -> None:
        self._workflow = workflow
        self._rules: dict[str, _Rule | None] = {}
        self._kinds: dict[Any, str] = {}
        self._kinds_of: dict[str, set[str]] = {}
        self._wave_of: dict[Hashable, str] = {}
        self._begun: dict[Any, str] = {}
        self._seen: Hashable = None
        self._next_s = 0.0
        self.spent_s = 0.0

    def wave_of(self, job: Any) -> str:
        """Return the wave of a job that becomes ready; empty: it has none."""
        wave = self._wave_of.pop(job, "")
        if wave:
            self._begun[job] = wave
        return self._begun.get(job, "")  # one that is tried again is of the same wave

    def look(self) -> Forecast | None:
        """Return a forecast if the graph has changed since the last one; None: it has not."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return None
        try:
            dag, failed = self._workflow.dag, self._workflow.scheduler.failed
            seen = len(dag.jobs), len(dag), len(dag.checkpoint_jobs), len(failed)
            if seen == self._seen:
                return None
            forecast, self._wave_of = self._forecast(dag, failed)
            # Of a large graph only the beginning is known: what follows, once that is done.
            self._seen = None if forecast.is_cut else seen
        except Exception:  # nothing but time depends on it
            self._seen, forecast, self._wave_of = None, Forecast(), {}
        took_s = time.monotonic() - now_s
        self.spent_s += took_s
        self._next_s = now_s + PAUSE * took_s
        return forecast

    def _forecast(self, dag: Any, failed: Iterable[Any]) -> tuple[Forecast, dict[Hashable, str]]:
        pending = list(dag.needrun_jobs())
        lost = self._lost(dag, failed)
        begun = list(self._begun.items())  # other threads add to it
        self._begun = {job: wave for job, wave in begun if not dag.finished(job)}
        until_s = time.perf_counter() + EVALUATION_S_PER_JOB * len(pending)
        nodes: dict[Hashable, Node] = {}
        dependencies = dag.dependencies
        for job in pending:
            if job not in lost:
                # A look-up by key would add the job: the graph's tables are defaultdicts.
                after = tuple(dependencies[job]) if job in dependencies else ()
                wave = self._begun.get(job, "")
                nodes[job] = Node(*self._kind_of(job, until_s), after, wave)
        is_complete = not dag.checkpoint_jobs and None not in self._rules.values()
        return forecast_of(nodes, is_complete=is_complete)

    @staticmethod
    def _lost(dag: Any, failed: Iterable[Any]) -> set[Any]:
        """Return the jobs that have failed for good, and all that wait for them."""
        lost = set[Any]()
        waiting = list(failed)
        while waiting:
            job = waiting.pop()
            if job not in lost:
                lost.add(job)
                waiting += dag.depending.get(job, ())
        return lost

    # -- kinds -----------------------------------------------------------------------------
    def _kind_of(self, job: Any, until_s: float) -> tuple[str, str]:
        """Return a job's kind and tool, empty if it is not served as far as is known."""
        if job.rule.name not in self._rules:
            self._rules[job.rule.name] = self._rule(job)
        rule = self._rules[job.rule.name]
        if rule is None or not rule.tool:
            return "", ""
        if rule.kind:
            return rule.kind, rule.tool
        if job not in self._kinds and rule.is_evaluable and time.perf_counter() < until_s:
            self._kinds[job] = self._evaluated(job, rule)
        return self._kinds.get(job, f"{job.rule.name}*"), rule.tool

    def _evaluated(self, job: Any, rule: _Rule) -> str:
        began_s = time.perf_counter()
        kind = kind_of(job)
        took_s = time.perf_counter() - began_s
        kinds = self._kinds_of.setdefault(job.rule.name, set())
        kinds.add(kind)
        if took_s > MAX_EVALUATION_S or len(kinds) > MAX_KINDS_PER_RULE:
            self._rules[job.rule.name] = _Rule(rule.tool, f"{job.rule.name}*", is_evaluable=False)
        return kind

    def _rule(self, job: Any) -> _Rule | None:
        """Return what is known of a job's rule; None: not even whether it is served."""
        rule = job.rule
        asked = [rule.resources[name] for name in RESOURCES if name in rule.resources]
        if any(value.is_evaluable() for value in asked):
            return None
        try:
            with untouched(job):
                if not is_served(job) or job.is_local:
                    return _Rule("", "", is_evaluable=False)
                tool = tool_name(job)
        except Exception:
            return None
        values = list(rule.params)
        functions = [value for value in values if is_function(value)]
        if not functions and not any(map(has_wildcards, values)):
            return _Rule(tool, kind_of(job), is_evaluable=False)
        known = all(arguments_of(function) <= KNOWN_ARGUMENTS for function in functions)
        return _Rule(tool, "", is_evaluable=known)


def kind_of(job: Any) -> str:
    """Return what a job has in common with those that need the same model."""
    try:
        with untouched(job):
            if not is_known(job):
                return f"{job.rule.name}*"
            given = job.params.items()
            params = sorted((name, plain(value)) for name, value in given if name != TOOL)
            asked = [(name, str(job.resources.get(name))) for name in RESOURCES]
            said = repr((tool_name(job), params, asked))
    except Exception:
        return f"{job.rule.name}*"
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def is_function(value: Any) -> bool:
    """Return whether a param or a resource is computed for each job."""
    return callable(value) or callable(getattr(value, "callable", None))


def has_wildcards(value: Any) -> bool:
    """Return whether a param differs with a job's wildcards."""
    if isinstance(value, str):
        return "{" in value
    return isinstance(value, (list, tuple)) and any(map(has_wildcards, value))


def arguments_of(function: Any) -> set[str]:
    """Return the names of a function's arguments."""
    with contextlib.suppress(TypeError, ValueError):
        return set(inspect.signature(function).parameters)
    return {"?"}
