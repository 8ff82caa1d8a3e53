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
    items = list(items)
    batches = Counter(item.batch_id for item in items)
    firsts = {id(item): item for item in items}.values()
    ways: Counter[str] = Counter()
    owners: dict[int, None] = {}
    kept: list[object] = []
    computed = tries = 0
    for item in firsts:
        if item.batch_id and item.job_id == job_id:
            computed += 1
            tries = max(tries, item.tries)
            continue
        way = KEPT if item.job_id == job_id else DUPLICATE
        if item.batch_id and not item.job_id:
            way = MERGED
        if item.job_id != job_id and item.job_id:
            owners[item.job_id] = None
        if not item.batch_id and item.key is not None and len(kept) < MAX_KEPT:
            kept.append(item.key)
        ways[way] += 1
    ways += Counter({COMPUTED: computed, DUPLICATE: len(items) - len(firsts)})
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
