"""Which chain of jobs follows a job and depends on nothing else that has still to be made. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from snakemake_executor_gpupool.tool_api.short_requests import MAX_STAGES

JobT = TypeVar("JobT")


class View(Protocol[JobT]):
    """What :class:`Lookahead` asks about jobs and the files between them."""

    def readers(self, job: JobT) -> Iterable[JobT]:
        """Return the jobs that read what a job writes."""

    def writers(self, job: JobT) -> Iterable[JobT]:
        """Return the jobs that write what a job reads."""

    def is_pending(self, job: JobT) -> bool:
        """Return whether a job has still to run, or is running."""

    def is_servable(self, job: JobT) -> bool:
        """Return whether a pending job would be served, and is known beforehand."""


class Lookahead(Generic[JobT]):
    """Follows the files through the jobs.

    Parameters
    ----------
    view
        The jobs as they are now.
    """

    def __init__(self, view: View[JobT]) -> None:
        self._view = view

    def chain(self, job: JobT) -> list[JobT]:
        """Return the chain of jobs that follows a job, the next one first.

        Each is the only served job that reads what the one before it writes; all its other
        inputs exist already or come from jobs of the chain.
        """
        chain = [job]
        while len(chain) < MAX_STAGES:
            following = self._next(chain)
            if following is None:
                break
            chain.append(following)
        return chain[1:]

    def _next(self, chain: list[JobT]) -> JobT | None:
        view = self._view
        pending = [reader for reader in view.readers(chain[-1]) if view.is_pending(reader)]
        # What gathers the outputs of thousands of jobs is left at the first of them: it is asked
        # for each, and whether it could be served takes as long as its inputs are many.
        next_ones = [reader for reader in pending if self._awaits_only(reader, chain)]
        if not next_ones:
            return None
        served = [reader for reader in pending if view.is_servable(reader)]
        return served[0] if len(served) == 1 and served[0] in next_ones else None

    def _awaits_only(self, job: JobT, chain: list[JobT]) -> bool:
        """Return whether all else that a job reads is there, or comes from jobs of a chain."""
        if job in chain:
            return False
        return all(
            writer in chain or not self._view.is_pending(writer)
            for writer in self._view.writers(job)
        )
