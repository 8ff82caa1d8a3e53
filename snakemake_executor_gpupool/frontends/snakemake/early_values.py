"""What was found out about jobs before they are ready, so that it is not found out twice.

In one look at the graph each job is evaluated once, and once for all those that have the same. A
request is kept until its job is ready where nothing that it says depends on files; the job itself
is served with it only if what its tool sees of it is still the same then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from snakemake_executor_gpupool.frontends.snakemake.translate import (
    DEFAULT_TMPDIR,
    EVALUATED_WHERE_IT_RUNS,
    has_flags,
    tool_spec,
)
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import Request

#: What a job keeps of values that may be functions of files.
_VALUES = ("_params", "_non_derived_params", "_resources")
_PLAIN = (str, int, float, bool, type(None))


@contextlib.contextmanager
def untouched(job: Any) -> Iterator[None]:
    """Restore a job afterwards: what was evaluated early must not be kept.

    Params and resources may be functions of input files, and Snakemake evaluates them for a job
    that becomes ready only if that was not done before.
    """
    before = _values_of(job)
    try:
        yield
    finally:
        _set_values(job, before)


class SameValues:
    """Params and resources of rules whose jobs all have the same."""

    def __init__(self) -> None:
        #: By its name: the rule, what its jobs have (None: not the same), whether they name a tool.
        self._rules: dict[str, tuple[Any, tuple[Any, ...] | None, bool]] = {}
        self._guesses: dict[str, Guess] = {}

    def of(self, job: Any) -> tuple[Any, ...] | None:
        """Return what a job has, not to be changed; None: that is not known."""
        rule, values, _ = self._rules.get(job.rule.name, (None, None, False))
        return values if rule is job.rule and not _has_more(job) else None

    def names_tool(self, job: Any) -> bool | None:
        """Return whether a job names a tool; None: it has to be evaluated for that."""
        return None if self.of(job) is None else self._rules[job.rule.name][2]

    def guess_of(self, job: Any) -> Guess | None:
        """Return the guess of another job that differs in nothing but wildcards and files."""
        guess = self._guesses.get(job.rule.name)
        return None if guess is None or self.of(job) is None or has_flags(job) else guess

    def keep(self, job: Any, guess: Guess) -> None:
        """Take in what a job was guessed to ask for."""
        if self.of(job) is not None and not has_flags(job):
            self._guesses[job.rule.name] = guess

    def learn(self, job: Any, values: tuple[Any, ...]) -> None:
        """Take in what a job was found to have; it still has it."""
        name = job.rule.name
        if name not in self._rules and None not in values and not _has_more(job):
            same = values if has_same(job.rule) else None
            self._rules[name] = job.rule, same, tool_spec(job) is not None


def _has_more(job: Any) -> bool:
    """Return whether a job may have resources that its rule does not give."""
    return bool(getattr(job, "_aux_resources", True))


class EarlyValues:
    """What jobs' params and resources are, in one look at the graph.

    Parameters
    ----------
    same
        What jobs of a rule have in common; it lasts for more than one look.
    """

    def __init__(self, same: SameValues) -> None:
        self._values: dict[Any, tuple[Any, ...]] = {}
        self._same = same

    @contextlib.contextmanager
    def of(self, job: Any) -> Iterator[None]:
        """Have a job evaluated if it was not yet in this look; restore it afterwards."""
        with untouched(job):
            known = self._same.of(job) or self._values.get(job)
            if known is not None:
                _set_values(job, known)
            yield
            self._values[job] = values = _values_of(job)
            self._same.learn(job, values)


def _values_of(job: Any) -> tuple[Any, ...]:
    return tuple(getattr(job, name) for name in _VALUES)


def _set_values(job: Any, values: tuple[Any, ...]) -> None:
    for name, value in zip(_VALUES, values, strict=True):
        setattr(job, name, value)


class Guess(NamedTuple):
    """What is known of a job that is not ready.

    Attributes
    ----------
    request
        What it will ask for.
    job
        What its tool will see of it.
    later
        The jobs that follow it, none of which can become more; None: there may be others.
    """

    request: Request
    job: Job
    later: tuple[Any, ...] | None = None


class KnownRequests:
    """What jobs that are not ready will ask for, where nothing of that depends on files."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Guess]] = {}
        self._settled: dict[str, bool] = {}

    def is_settled(self, rule: Any) -> bool:
        """Return :func:`is_settled`, looked at once for each rule."""
        if rule.name not in self._settled:
            self._settled[rule.name] = is_settled(rule)
        return self._settled[rule.name]

    def keep(self, job: Any, guess: Guess) -> None:
        """Keep what a job will ask for, if nothing of that depends on files."""
        if self.is_settled(job.rule):
            self._known[job] = _state(job), guess

    def of(self, job: Any) -> Guess | None:
        """Return what was kept of a job; None: nothing was, or it is another one now."""
        # By the job, not by its name: what a checkpoint has replaced is no longer in the graph.
        state, guess = self._known.get(job, (None, None))
        return guess if guess is not None and state == _state(job) else None

    def has(self, job: Any) -> bool:
        """Return whether it is kept what a job will ask for, and it still asks for that."""
        return self.of(job) is not None

    def take(self, job: Any) -> Guess | None:
        """Return what was kept of a job that is ready, and forget it."""
        guess = self.of(job)
        self._known.pop(job, None)
        return guess


def _state(job: Any) -> tuple[Any, ...]:
    """Return what a request says that may become another one without a function."""
    more = getattr(job, "_aux_resources", None)
    return job.attempt, job.priority, dict(more) if more else None, *job.input


def has_same(rule: Any) -> bool:
    """Return whether all jobs of a rule have the same params and resources.

    Snakemake puts wildcards into texts, and into the texts of a list.
    """
    return is_settled(rule) and not any(map(_has_braces, rule.params))


def _has_braces(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_braces, value))
    return isinstance(value, str) and "{" in value


def is_settled(rule: Any) -> bool:
    """Return whether a rule's params and resources follow from wildcards alone."""
    return all(map(_is_plain, rule.params)) and all(
        not resource.is_evaluable()
        or (name == EVALUATED_WHERE_IT_RUNS and resource.raw == DEFAULT_TMPDIR)
        for name, resource in rule.resources.items()
    )


def _is_plain(value: Any) -> bool:
    """Return whether a param is itself; functions, and what Snakemake flags, are not."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return type(value) in _PLAIN or isinstance(value, PurePath)
