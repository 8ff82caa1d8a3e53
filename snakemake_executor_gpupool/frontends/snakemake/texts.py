"""Formats what a rule says of a job, such as its shell command, with what that names and no more.

Snakemake copies all variables of the workflow several times for each text, in case it names one:
that is most of what it does for a short command, which it formats once when a job starts and once
for the record of its outputs. The text is the same; where it may not be, Snakemake formats it.
"""

from __future__ import annotations

import contextlib
import functools
import string
from collections.abc import Callable
from operator import attrgetter
from typing import Any

#: What a text may name of a job, and where Snakemake takes it from. It looks at all of them.
OF_A_JOB: dict[str, Callable[[Any], Any]] = {
    "input": attrgetter("input"),
    "output": attrgetter("output"),
    "params": attrgetter("params"),
    "wildcards": attrgetter("_format_wildcards"),
    "threads": attrgetter("threads"),
    "resources": attrgetter("resources"),
    "log": attrgetter("log"),
    "jobid": attrgetter("jobid"),
    "name": attrgetter("name"),
    "rule": attrgetter("rule.name"),
    "rulename": attrgetter("rule.name"),
}


class JobTexts:
    """Stands in for a job's ``format_wildcards``."""

    __slots__ = ("_job", "_usual")

    def __init__(self, job: Any) -> None:
        self._job = job
        self._usual = job.format_wildcards

    @classmethod
    def of(cls, job: Any) -> JobTexts:
        """Return what stands in for a job's method, or does so already."""
        there = job.format_wildcards
        return there if isinstance(there, JobTexts) else cls(job)

    def __call__(self, text: Any, **variables: Any) -> Any:
        """Return a text with the job's values in it."""
        if not variables and isinstance(text, str) and names_only_a_job(text):
            with contextlib.suppress(Exception):  # Snakemake says what is wrong
                values = {name: value_of(self._job) for name, value_of in OF_A_JOB.items()}
                return formatter().vformat(text, (), values)
        return self._usual(text, **variables)


@functools.cache
def formatter() -> string.Formatter:
    """Return what Snakemake formats texts with."""
    from snakemake.utils import QuotedFormatter, SequenceFormatter

    made: string.Formatter = SequenceFormatter(
        separator=" ", element_formatter=QuotedFormatter(None)
    )
    return made


@functools.lru_cache(maxsize=1024)
def names_only_a_job(text: str) -> bool:
    """Tell whether all that a text names is a job's."""
    try:
        fields = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return False
    for _, field, spec, _ in fields:
        first = str(field).partition(".")[0].partition("[")[0]
        if first not in OF_A_JOB or "{" in (spec or ""):
            return False
    return True
