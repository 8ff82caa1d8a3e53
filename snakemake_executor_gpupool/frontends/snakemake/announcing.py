"""Snakemake's lines about a job that starts, each of its texts put together once.

Snakemake formats the shell command three times for them: for two fields, and for a message that is
rarely shown. That is as much as all else that it does to hand a small job out.
"""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.texts import JobTexts


def announce(job: Any) -> None:
    """Have Snakemake log that a job starts, with the records that it would make anyway.

    From then on the job's texts are put together by :class:`JobTexts`.
    """
    if job.is_group():
        job.log_info()
        return
    texts: dict[str, str] = {}

    def once(string: Any, **variables: Any) -> Any:
        if variables or not isinstance(string, str):
            return plain(string, **variables)
        if string not in texts:
            texts[string] = plain(string)
        return texts[string]

    # Only until the lines are there: what a text is made of may change later.
    try:
        plain = JobTexts.of(job)
        job.format_wildcards = once
    except AttributeError:  # a version of Snakemake whose jobs take nothing more
        job.log_info()
        return
    try:
        job.log_info()
    finally:
        job.format_wildcards = plain
