"""What was found out about jobs before they are ready, so that it is not found out twice.

In one look at the graph each job is evaluated once. A request is kept until its job is ready where
nothing that it says depends on files; the job itself is served with a request that is made of what
it says then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.translate import (
    DEFAULT_TMPDIR,
    EVALUATED_WHERE_IT_RUNS,
)
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
        self._of_rules: dict[str, tuple[Any, ...] | None] = {}

    def of(self, job: Any) -> tuple[Any, ...] | None:
        """Return what a job has, not to be changed; None: that is not known."""
        return None if _has_more(job) else self._of_rules.get(job.rule.name)

    def learn(self, job: Any, values: tuple[Any, ...]) -> None:
        """Take in what a job was found to have."""
        name = job.rule.name
        if name not in self._of_rules and None not in values and not _has_more(job):
            self._of_rules[name] = values if has_same(job.rule) else None


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


class KnownRequests:
    """Requests of jobs that are not ready, of which nothing depends on files."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Request]] = {}
        self._settled: dict[str, bool] = {}

    def is_settled(self, rule: Any) -> bool:
        """Return :func:`is_settled`, looked at once for each rule."""
        if rule.name not in self._settled:
            self._settled[rule.name] = is_settled(rule)
        return self._settled[rule.name]

    def keep(self, job: Any, request: Request) -> None:
        """Keep a job's request, if nothing that it says depends on files."""
        if self.is_settled(job.rule):
            self._known[job] = _state(job), request

    def of(self, job: Any) -> Request | None:
        """Return the request that was kept of a job; None: none was, or it is another one now."""
        # By the job, not by its name: what a checkpoint has replaced is no longer in the graph.
        state, request = self._known.get(job, (None, None))
        return request if request is not None and state == _state(job) else None

    def has(self, job: Any) -> bool:
        """Return whether a request was kept of a job, and it still asks for that."""
        return self.of(job) is not None

    def forget(self, job: Any) -> None:
        """A job is ready."""
        self._known.pop(job, None)


def _state(job: Any) -> tuple[Any, ...]:
    """Return what a request says that may become another one without a function."""
    return job.attempt, job.priority, *job.input


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
