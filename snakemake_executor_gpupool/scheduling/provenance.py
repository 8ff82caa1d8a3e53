"""What is known of how a job's outputs came about, when they are in place. Pure.

Each value is bounded, however many items a job or a batch has; what is left out is counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from snakemake_executor_gpupool.scheduling.results import WorkItem

#: So many batches of a job are named, so many jobs that it shares items with, and so many keys of
#: results that an earlier run had left.
MAX_BATCHES, MAX_JOBS, MAX_KEPT = 100, 20, 20
#: So many items of a later stage of a merged dispatch are named.
MAX_KEYS = 100
#: How a job has come by an item's result: it was computed for it; another place had asked for it
#: before; an earlier run had left it; a merged dispatch had computed it beforehand.
COMPUTED, DUPLICATE, KEPT, MERGED = "computed", "duplicate", "kept", "merged"


class Came:
    """How a job has come by its items' results, taken in piece by piece.

    Parameters
    ----------
    job_id
        Of the job.
    """

    def __init__(self, job_id: int) -> None:
        self._job_id = job_id
        self._batches: dict[int, int] = {}
        self._ways: Counter[str] = Counter()
        self._owners: dict[int, None] = {}
        self._kept: list[object] = []
        self._tries = 0

    def add(self, items: Sequence[WorkItem]) -> None:
        """Take in the next of the job's items, each as its work item."""
        job_id, batches, ways = self._job_id, self._batches, self._ways
        firsts = items
        if len({*map(id, items)}) < len(items):
            firsts = list({id(item): item for item in items}.values())
        for item in items:
            batches[item.batch_id] = batches.get(item.batch_id, 0) + 1
        own = [i for i in firsts if i.batch_id and i.job_id == job_id and not i.is_repeat]
        if own:
            self._tries = max(self._tries, *[item.tries for item in own])
        if len(own) < len(firsts):
            known = {*map(id, own)}
            for item in firsts:
                if id(item) not in known:
                    ways[self._way(item)] += 1
        for way, count in ((COMPUTED, len(own)), (DUPLICATE, len(items) - len(firsts))):
            if count:
                ways[way] += count

    def _way(self, item: WorkItem) -> str:
        if item.is_repeat:
            way = DUPLICATE
        elif item.batch_id and not item.job_id:
            way = MERGED
        else:
            way = KEPT if item.job_id == self._job_id else DUPLICATE
        if item.job_id not in (0, self._job_id):
            self._owners[item.job_id] = None
        is_kept = not item.batch_id and item.key is not None and not item.is_repeat
        if is_kept and len(self._kept) < MAX_KEPT:
            self._kept.append(item.key)
        return way

    def fields(self) -> dict[str, object]:
        """Return what is written down of it."""
        batches = [(number, count) for number, count in self._batches.items() if number]
        return {
            "came": dict(self._ways),
            "batches": batches[:MAX_BATCHES],
            "n_batches": len(batches),
            "duplicate_of": list(self._owners)[:MAX_JOBS],
            "kept": list(self._kept),
            "tries": self._tries,
        }


def came(items: Sequence[WorkItem], job_id: int) -> dict[str, object]:
    """Return how a job has come by its items' results, and from where.

    Parameters
    ----------
    items
        The work item of each of the job's items.
    """
    found = Came(job_id)
    found.add(items)
    return found.fields()


def came_merged(items: int, batch_id: int, keys: Iterable[object]) -> dict[str, object]:
    """Return the same of a job whose outputs a merged dispatch had staged.

    ``keys`` are those of its items in the ledger: a batch names its members in the first stage.
    """
    nowhere: dict[str, object] = {"duplicate_of": [], "kept": [], "tries": 1}
    return {
        "keys": list(itertools.islice(keys, MAX_KEYS)),
        "came": {MERGED: items},
        "batches": [(batch_id, items)],
        "n_batches": 1,
        **nowhere,
    }
