"""Where results are kept across runs, and under which keys: mostly all of them in one store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.requests import Request


@dataclass(frozen=True)
class _Place:
    """Where a job's results are kept; None: nowhere.

    ``space`` is what their keys start with there; None: the same as within the pool.
    """

    store: StoreAddress | None
    space: str | None

    def key_of(self, item: WorkItem) -> object:
        """Return under which key an item's result is kept; None: under none."""
        if not isinstance(item.key, tuple) or self.space is None:
            return item.key
        return self.space, *item.key[1:]


class Keeping:
    """Where the results of each job are kept; used by the run loop's thread alone.

    Parameters
    ----------
    store
        Where those of most jobs are; None: nowhere.
    """

    def __init__(self, store: StoreAddress | None) -> None:
        self._plain = _Place(store, None)
        #: Of jobs whose results are kept elsewhere than all others', or under other keys.
        self._of_job: dict[int, _Place] = {}

    def store_of(self, request: Request) -> StoreAddress | None:
        """Return where a job's results are kept; None: nowhere."""
        return request.store or self._plain.store

    def note(self, request: Request) -> None:
        """Note a job that is about to be read."""
        if request.store is not None or request.tool.stamp:
            place = _Place(self.store_of(request), request.kept_space)
            self._of_job[request.job_id] = place

    def forget(self, job_id: int) -> None:
        """Forget a job that has ended."""
        self._of_job.pop(job_id, None)

    def of_batch(self, items: Sequence[WorkItem]) -> tuple[list[object], StoreAddress | None]:
        """Return the key of each item of a micro-batch, and where their results are kept.

        That is one place: items whose job keeps them elsewhere than the first have the key None.
        """
        if self._plain.store is None and not self._of_job:
            return [None] * len(items), None
        places = [self._of_job.get(item.job_id, self._plain) for item in items]
        store = next((each.store for each in places if each.store is not None), None)
        keys = [
            each.key_of(item) if store is not None and each.store == store else None
            for item, each in zip(items, places, strict=True)
        ]
        return keys, store
