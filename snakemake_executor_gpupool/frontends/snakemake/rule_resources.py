"""Resources of a rule that are the same for each of its jobs are evaluated once.

Snakemake evaluates all resources of a job twice before it starts, and for each of them builds what
a function of it would be called with. Where a rule gives constants alone, which most do, all its
jobs have the same; what is left open for where the job runs, such as ``tmpdir``, stays so.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection
from typing import Any


def evaluate_once(workflow: Any) -> None:
    """Have the resources of the rules of a workflow evaluated this way from now on."""
    for rule in workflow.rules:
        if "expand_resources" not in vars(rule):
            rule.expand_resources = RuleResources(rule, workflow)


class RuleResources:
    """Stands in for a rule's ``expand_resources``; used by Snakemake's main thread alone.

    Parameters
    ----------
    rule, workflow
        Snakemake's.
    """

    def __init__(self, rule: Any, workflow: Any) -> None:
        self._rule, self._workflow = rule, workflow
        self._usual = rule.expand_resources
        #: What was evaluated, by what was left open, and of what it was made.
        self._known: dict[frozenset[str], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(
        self,
        wildcards: Any,
        input: Any,
        attempt: Any,
        skip_evaluation: Collection[str] | None = None,
        **more: Any,
    ) -> Any:
        """Return the resources of a job, a list of its own."""

        def evaluate() -> Any:
            return self._usual(wildcards, input, attempt, skip_evaluation=skip_evaluation, **more)

        left_open = frozenset(skip_evaluation or ())
        made_of = self._constants(left_open)
        if more or made_of is None:
            return evaluate()
        known, then = self._known.get(left_open, (None, ()))
        if known is None or not _is_same(then, made_of):
            known = evaluate()
            self._known[left_open] = known, made_of
        return _copy(known)

    def _constants(self, left_open: Collection[str]) -> tuple[Any, ...] | None:
        """Return all that a job's resources are made of; None: functions are among it."""
        try:
            given = self._rule.resources.values()
            if any(each.is_evaluable() and each.name not in left_open for each in given):
                return None
            bounds = self._workflow.global_resources
            most = self._workflow.resource_settings.max_threads
        except AttributeError:  # a version of Snakemake that has them in another way
            return None
        return (*given, *bounds, *bounds.values(), most)


def _is_same(then: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(then) == len(now) and all(map(operator.is_, then, now))


def _copy(resources: Any) -> Any:
    """Return a copy that may be given further names."""
    copied = copy.copy(resources)
    copied._names = dict(resources._names)
    return copied
