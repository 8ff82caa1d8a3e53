"""Jobs that read what many others write are prepared without a search for each input.

Before a job starts, Snakemake asks of each of its inputs whether it is a pipe, and for that goes
through all jobs before it until it finds the one that writes the input. For a rule that collects
5,000 files these are twelve million steps, 1.4 s, and for 20,000 files 23 s. Where none of these
jobs writes a pipe, the answer is known.
"""

from __future__ import annotations

from functools import partial
from typing import Any

#: A job that depends on so many others reads from many.
MANY_JOBS = 50


class ManyInputs:
    """Finds such jobs in the graph; used by Snakemake's main thread alone."""

    def __init__(self) -> None:
        self._seen_jobs = 0

    def look(self, dag: Any) -> None:
        """Have those jobs of the graph prepared this way that are in it since the last look."""
        if len(dag) == self._seen_jobs:
            return
        self._seen_jobs = len(dag)
        if len(dag) <= MANY_JOBS:
            return
        for job in dag.needrun_jobs():
            if len(dag.dependencies.get(job, ())) >= MANY_JOBS and "prepare" not in vars(job):
                job.prepare = partial(_prepare, job)


async def _prepare(job: Any) -> None:
    prepare = partial(type(job).prepare, job)
    if any(before.pipe_or_service_output for before in job.dag.dependencies[job]):
        await prepare()
        return
    # Not for longer: what a job depends on may change.
    job.is_pipe_or_service_input = _is_none
    try:
        await prepare()
    finally:
        del job.is_pipe_or_service_input


def _is_none(path: Any) -> bool:
    return False
