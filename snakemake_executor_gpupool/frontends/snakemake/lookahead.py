"""Which jobs will read what a job writes, and nothing that is yet to be made. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from snakemake_executor_gpupool.tool_api.short_requests import MAX_STAGES

JobT = TypeVar("JobT")


class View(Protocol[JobT]):
    """What must be known of the jobs and the files between them."""

    def readers(self, job: JobT) -> Iterable[JobT]:
        """Return the jobs that read what a job writes."""

    def writers(self, job: JobT) -> Iterable[JobT]:
        """Return the jobs that write what a job reads."""

    def is_pending(self, job: JobT) -> bool:
        """Tell whether a job is yet to run, or runs."""

    def is_servable(self, job: JobT) -> bool:
        """Tell whether a pending job would be served, and can be told beforehand."""


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
        """Return the jobs that follow a job in a row, the next one first.

        Each is the only served one that reads what the one before it writes, and whatever
        else it reads is there, or comes from jobs of the chain.
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
        served = [reader for reader in pending if view.is_servable(reader)]
        if len(served) != 1 or served[0] in chain:
            return None
        (following,) = served
        awaited = [writer for writer in view.writers(following) if view.is_pending(writer)]
        return following if all(writer in chain for writer in awaited) else None
