"""What is still to come of Snakemake's graph of jobs, told to the pool whenever it has changed."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.early_values import untouched
from snakemake_executor_gpupool.frontends.snakemake.plain_values import plain
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    TOOL,
    is_served,
    tool_name,
)
from snakemake_executor_gpupool.records.reference import RESOURCES
from snakemake_executor_gpupool.scheduling.forecast import (
    Forecast,
    Node,
    first_of,
    forecast_of,
    kind_of,
)
from snakemake_executor_gpupool.wire.requests import Request

#: So long may a rule's params take for a job, and all of them for each job of the graph; what takes
#: longer is not known before its jobs are ready.
MAX_EVALUATION_S = 2e-2
EVALUATION_S_PER_JOB = 2e-5
#: Of a small graph.
LEAST_EVALUATION_S = 5e-3
#: A graph is looked at again when so many times what that took has passed.
PAUSE = 200.0
#: A param that has more values than this, and another one for every second job, does not choose a
#: model: it is a name or a seed.
MAX_VALUES = 16
#: Characters of a param's value; of a longer one (a whole configuration, say) a digest counts.
MAX_TEXT = 200
#: With it ends the kind of jobs whose params cannot be known beforehand.
NOT_KNOWN = "*"
#: So long it is asked at a time which models kinds will need; for the first job of a rule, its tool
#: is looked for, which has to be done once in any case.
MAX_ASKING_S = 0.1


@dataclass(eq=False)
class _Rule:
    """What is known of a rule's jobs beforehand.

    Attributes
    ----------
    tool
        Empty: they are not served.
    fixed
        What is the same for all of them.
    varying
        The params that differ with wildcards; None: some cannot be known beforehand.
    """

    name: str
    tool: str
    fixed: Sequence[tuple[str, Any]] = ()
    varying: Sequence[tuple[str, Any]] | None = ()
    jobs: int = 0
    values: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def take(self, job: Any) -> tuple[str, ...] | None:
        """Return the values of what varies, and remember which there are."""
        if self.varying is None:
            return None
        began_s = time.perf_counter()
        try:
            found = tuple(text_of(value_of(value, job)) for _, value in self.varying)
        except Exception:
            return None
        if time.perf_counter() - began_s > MAX_EVALUATION_S:
            self.varying = None
            return None
        self.jobs += 1
        for (name, _), value in zip(self.varying, found, strict=True):
            self.values[name].add(value)
        return found

    def kind(self, found: tuple[str, ...] | None) -> str:
        """Return what a job has in common with those that need the same model."""
        if self.varying is None or (self.varying and found is None):
            return f"{self.name}{NOT_KNOWN}"
        varying = [
            (name, value)
            for (name, _), value in zip(self.varying, found or (), strict=True)
            if not self._is_label(name)
        ]
        return digest_of(repr(sorted([*self.fixed, *varying])))

    def _is_label(self, name: str) -> bool:
        return len(self.values[name]) > max(MAX_VALUES, self.jobs // 2)


class Foreseeing:
    """Makes forecasts of a workflow's graph; used by Snakemake's main thread alone.

    Parameters
    ----------
    model_of
        Returns what a job that is not ready will ask of its model; None: it is not known yet.

    Attributes
    ----------
    spent_s
        What that took so far.
    """

    def __init__(
        self, workflow: Any, model_of: Callable[[Any], Request | None] = lambda job: None
    ) -> None:
        self._workflow = workflow
        self._model_of = model_of
        #: By kind. Jobs of one kind ask for the same.
        self._models: dict[str, Request | None] = {}
        self._is_asking = False
        self._rules: dict[str, _Rule | None] = {}
        self._found: dict[Any, tuple[str, ...] | None] = {}
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
            self._seen = None if forecast.is_cut or self._is_asking else seen
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
        rules = self._look_at(pending)
        kinds: dict[tuple[_Rule, Any], str] = {}
        nodes: dict[Hashable, Node] = {}
        dependencies = dag.dependencies
        for job in pending:
            if job in lost:
                continue
            # A look-up by key would add the job: the graph's tables are defaultdicts.
            after = tuple(dependencies[job]) if job in dependencies else ()
            rule = rules.get(job.rule.name)
            kind = tool = ""
            if rule is not None and rule.tool:
                key, tool = (rule, self._found.get(job)), rule.tool
                kind = kinds.get(key) or kinds.setdefault(key, rule.kind(self._found.get(job)))
            nodes[job] = Node(kind, tool, after, self._begun.get(job, ""))
        is_complete = not dag.checkpoint_jobs and None not in self._rules.values()
        forecast, wave_of = forecast_of(nodes, is_complete=is_complete)
        return replace(forecast, foretold=self._foretold(forecast, wave_of)), wave_of

    def _foretold(self, forecast: Forecast, wave_of: Mapping[Any, str]) -> dict[str, Request]:
        """Return what kinds will ask of their models, of which no job has become ready."""
        met = set(map(kind_of, self._begun.values()))
        unmet = {wave.kind for wave in forecast.waves if not wave.kind.endswith(NOT_KNOWN)} - met
        until_s = time.perf_counter() + MAX_ASKING_S
        self._is_asking = False
        for kind, job in first_of(unmet - self._models.keys(), forecast, wave_of).items():
            if time.perf_counter() > until_s:
                self._is_asking = True  # the next time that jobs are ready
                break
            self._models[kind] = self._model_of(job)
        asked = ((kind, self._models.get(kind)) for kind in sorted(unmet))
        return {kind: request for kind, request in asked if request is not None}

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
    def _look_at(self, jobs: Sequence[Any]) -> dict[str, _Rule | None]:
        """See which rules there are, and what differs between the jobs of each."""
        least_s = max(EVALUATION_S_PER_JOB * len(jobs), LEAST_EVALUATION_S)
        until_s = time.perf_counter() + least_s
        for job in jobs:
            name = job.rule.name
            if name not in self._rules:
                self._rules[name] = rule_of(job)
            rule = self._rules[name]
            if rule is None or not rule.varying or job in self._found:
                continue
            if time.perf_counter() < until_s:
                self._found[job] = rule.take(job)
        return self._rules


def rule_of(job: Any) -> _Rule | None:
    """Return what is known of a job's rule; None: not even whether it is served."""
    rule = job.rule
    asked = [rule.resources[name] for name in RESOURCES if name in rule.resources]
    if any(value.is_evaluable() for value in asked):
        return None
    try:
        with untouched(job):
            if not is_served(job) or job.is_local:
                return _Rule(rule.name, "")
            tool = tool_name(job)
            fixed = [(name, str(job.resources.get(name))) for name in RESOURCES]
    except Exception:
        return None
    fixed += [("", tool)]
    params = [(name, value) for name, value in rule.params.items() if name != TOOL]
    varying = [
        (name, value) for name, value in params if is_function(value) or has_wildcards(value)
    ]
    names = {name for name, _ in varying}
    fixed += [(name, text_of(value)) for name, value in params if name not in names]
    known = all(takes_wildcards(value) for _, value in varying if is_function(value))
    return _Rule(rule.name, tool, fixed, varying if known else None)


def text_of(value: Any) -> str:
    """Return a param as a short text, another one for each: it is compared for each job."""
    text = repr(plain(value))
    return text if len(text) <= MAX_TEXT else digest_of(text)


def digest_of(text: str) -> str:
    """Return a short text, most probably another one for each."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def value_of(value: Any, job: Any) -> Any:
    """Return a param of a job that depends on nothing but wildcards; only who is equal counts."""
    if is_function(value):
        return callable_of(value)(job.wildcards)
    if isinstance(value, str):
        return value.format(**job.wildcards_dict)
    return [each.format(**job.wildcards_dict) if isinstance(each, str) else each for each in value]


def varies(value: Any) -> bool:
    """Return whether a param is, or may be, another one for each job."""
    return is_function(value) or has_wildcards(value)


def is_function(value: Any) -> bool:
    """Return whether a param is computed for each job."""
    return callable(callable_of(value))


def callable_of(value: Any) -> Any:
    """Return the function of a param; Snakemake flags some by a string around them."""
    return value if callable(value) else getattr(value, "callable", None)


def has_wildcards(value: Any) -> bool:
    """Return whether a param differs with a job's wildcards."""
    if isinstance(value, str):
        return "{" in value
    return isinstance(value, (list, tuple)) and any(map(has_wildcards, value))


def takes_wildcards(function: Any) -> bool:
    """Return whether a function of a rule depends on wildcards alone, as far as it says."""
    with contextlib.suppress(TypeError, ValueError):
        _, *others = inspect.signature(callable_of(function)).parameters.values()
        return all(each.default is not inspect.Parameter.empty for each in others)
    return False
