"""Misspelt resources, params and variables: Snakemake accepts any name, so gpupool checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from snakemake_executor_gpupool.records.reference import RESOURCES, VARIABLES
from snakemake_executor_gpupool.tool_api.nearest import did_you_mean, nearest

PREFIX = "gpupool"
#: How similar a resource must be to one of ours for a warning: rules have resources of their own.
CLOSE = 0.8
OURS = {name for name in RESOURCES if name.startswith(PREFIX)}
#: Variables that only gpupool sets.
INTERNAL = {name for name, text in VARIABLES.items() if text.startswith("Set ")}


def misspelt_names(rules: Iterable[Any]) -> dict[str, str]:
    """Return the problem of each rule with a misspelt resource or param of gpupool's own.

    Rules behind a checkpoint are included.
    """
    problems = {}
    for rule in rules:
        for kind, names in (("resource", rule.resources), ("param", rule.params)):
            wrong = [name for name in names_of(names) if is_ours(name) and name not in OURS]
            for name in wrong:
                problems[rule.name] = (
                    f"there is no {kind} {name!r}.{did_you_mean(name, OURS)} "
                    f"gpupool's own are {', '.join(sorted(OURS))}"
                )
    return problems


def names_of(values: Any) -> list[str]:
    """Return the names of a rule's resources or params."""
    return [name for name in values.keys() if isinstance(name, str)]  # noqa: SIM118 - a Namedlist


def is_ours(name: str) -> bool:
    """Return whether a name can only be meant for gpupool."""
    plain = name.lower().replace("_", "")
    return plain.startswith(PREFIX) or nearest(name, OURS, 0.85) is not None


def near_resources(jobs: Mapping[str, Any], limited: Iterable[str]) -> list[str]:
    """Return a warning for each resource that resembles one of ours, but may be the rule's own.

    Parameters
    ----------
    jobs
        A job of each rule.
    limited
        Resources that ``--resources`` bounds: these are used.
    """
    rules_of: dict[tuple[str, str], list[str]] = {}
    for rule, job in jobs.items():
        given = given_resources(job)
        for name in sorted(given - set(RESOURCES) - set(limited)):
            meant = nearest(name, set(RESOURCES) - OURS, CLOSE)
            if meant is not None and meant not in given and not is_ours(name):
                rules_of.setdefault((name, meant), []).append(rule)
    return [
        f"rule{'s' * (len(rules) > 1)} {', '.join(rules)}: the resource {name!r} means nothing to "
        f"gpupool; did you mean {meant!r}?"
        for (name, meant), rules in rules_of.items()
    ]


def given_resources(job: Any) -> set[str]:
    """Return the names of a job's resources that have a value, as far as they are known."""
    try:
        return {name for name in names_of(job.resources) if job.resources.get(name) is not None}
    except Exception:  # one of them depends on a file that does not exist yet
        return set()


def near_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each environment variable that resembles one of ours."""
    return [
        f"the environment variable {name} means nothing; did you mean {meant}?"
        for name in sorted(environ)
        if name.startswith("GPUPOOL_") and name not in VARIABLES
        for meant in [nearest(name, set(VARIABLES) - set(environ) - INTERNAL, 0.85)]
        if meant is not None
    ]
