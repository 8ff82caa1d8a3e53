"""What is known of how a job's outputs came about, when they are in place. Pure.

Each value is bounded, however many items a job or a batch has; what is left out is counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from snakemake_executor_gpupool.scheduling.results import WorkItem

#: So many batches of a job are named, so many jobs that it shares items with, and so many keys of
#: results that an earlier run had left.
MAX_BATCHES, MAX_JOBS, MAX_KEPT = 100, 20, 20
#: So many items of a later stage of a merged dispatch are named.
MAX_KEYS = 100
#: How a job has come by an item's result: it was computed for it; another place had asked for it
#: before; an earlier run had left it; a merged dispatch had computed it beforehand.
COMPUTED, DUPLICATE, KEPT, MERGED = "computed", "duplicate", "kept", "merged"


def came(items: Iterable[WorkItem], job_id: int) -> dict[str, object]:
    """Return how a job has come by its items' results, and from where.

    Parameters
    ----------
    items
        The work item of each of the job's items.
    """
    ways: Counter[str] = Counter()
    batches: Counter[int] = Counter()
    owners: dict[int, None] = {}
    kept: list[object] = []
    seen: set[int] = set()
    tries = 0
    for item in items:
        batches[item.batch_id] += 1
        is_first = id(item) not in seen
        seen.add(id(item))
        if item.job_id != job_id and is_first and item.job_id:
            owners[item.job_id] = None
        way = DUPLICATE if not is_first or item.job_id != job_id else COMPUTED
        if is_first and not item.job_id and item.batch_id:
            way = MERGED
        elif way == COMPUTED and not item.batch_id:
            way = KEPT
        if is_first and not item.batch_id and item.key is not None and len(kept) < MAX_KEPT:
            kept.append(item.key)
        ways[way] += 1
        if way == COMPUTED:
            tries = max(tries, item.tries)
    batches.pop(0, None)
    return {
        "came": dict(ways),
        "batches": list(batches.items())[:MAX_BATCHES],
        "n_batches": len(batches),
        "duplicate_of": list(owners)[:MAX_JOBS],
        "kept": kept,
        "tries": tries,
    }


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
