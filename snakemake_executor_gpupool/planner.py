"""Who computes what, in which order, in batches of which size. Pure decisions."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile
from typing import Generic, Protocol, TypeVar


class Weighted(Protocol):
    """What the planner must know of an item."""

    @property
    def cost(self) -> float:
        """Relative time it takes."""

    @property
    def tokens(self) -> int:
        """Its share of a micro-batch's token budget."""

    @property
    def group(self) -> str:
        """Items of one group may share a micro-batch."""

    @property
    def order(self) -> tuple[int, int]:
        """(negated priority, arrival): breaks ties, so that plans are deterministic."""


ItemT = TypeVar("ItemT", bound=Weighted)


def lpt_shards(costs: Sequence[float], workers: int) -> list[list[int]]:
    """Split items over workers by longest processing time first.

    Items are taken by descending cost, each by the worker with the least load so far
    (ties: the lower worker number; equal costs keep their order). The makespan is at
    most 4/3 - 1/(3m) times the optimum for m workers.

    Parameters
    ----------
    costs
        One non-negative cost per item, in any one unit.
    workers
        How many workers, at least 1.

    Returns
    -------
    list of list of int
        For each worker the indices of its items, by descending cost.

    References
    ----------
    R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17
    (1969) 416-429.
    """
    shards: list[list[int]] = [[] for _ in range(workers)]
    heap = [(0.0, worker) for worker in range(workers)]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, worker = heapq.heappop(heap)
        shards[worker].append(index)
        heapq.heappush(heap, (load + costs[index], worker))
    return shards


def batch_length(items: Sequence[Weighted], budget_tokens: int, pads: bool) -> int:
    """Return how many items from the front of ``items`` fit one micro-batch; at least one.

    A padded batch takes its longest item's tokens times its size.
    """
    longest = total = 0
    for count, item in enumerate(items):
        longest, total = max(longest, item.tokens), total + item.tokens
        size = longest * (count + 1) if pads else total
        if count and size > budget_tokens:
            return count
    return len(items)


class Shard(Generic[ItemT]):
    """The items that one worker is to compute, longest first within equal priority."""

    def __init__(self) -> None:
        self._items: list[ItemT] = []
        self._sorted = True
        self.load = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: ItemT) -> None:
        """Put an item in."""
        self._items.append(item)
        self._sorted = False
        self.load += item.cost

    def drain(self) -> list[ItemT]:
        """Take all items out."""
        items, self._items, self.load = self._items, [], 0.0
        return items

    def take(self, budget_tokens: int, pads: bool) -> list[ItemT]:
        """Take the next micro-batch: items of one group and priority, neighbours in length."""
        self._sort()
        # Kept in reverse, since a list gives up its end for nothing.
        window = self._items[: -self.LOOKAHEAD - 1 : -1]
        kind = (window[0].order[0], window[0].group)
        same = list(takewhile(lambda item: (item.order[0], item.group) == kind, window))
        count = batch_length(same, budget_tokens, pads)
        del self._items[len(self._items) - count :]
        batch = same[:count]
        self.load = self.load - sum(item.cost for item in batch) if self._items else 0.0
        return batch

    #: More items than any micro-batch holds.
    LOOKAHEAD = 4096

    def _sort(self) -> None:
        if not self._sorted:
            self._items.sort(key=_shard_order, reverse=True)
            self._sorted = True

    def give_half(self) -> list[ItemT]:
        """Give up every other item, so that both halves keep the same mix of costs."""
        self._sort()
        given, self._items = self._items[::2], self._items[1::2]
        self.load = sum(item.cost for item in self._items)
        return given


def _shard_order(item: Weighted) -> tuple[int, str, float, int, int]:
    return (item.order[0], item.group, -item.cost, -item.tokens, item.order[1])


class ShardedQueue(Generic[ItemT]):
    """Items waiting for the workers of one model, split into LPT-balanced shards.

    New items go to the least loaded shard, longest first. A worker whose shard is empty
    takes half of the heaviest one. When workers come or go, the shards are made anew.
    Items wait undivided until there is a worker.
    """

    def __init__(self) -> None:
        self._shards: dict[Hashable, Shard[ItemT]] = {}
        self._unassigned: Shard[ItemT] = Shard()

    def __len__(self) -> int:
        return len(self._unassigned) + sum(map(len, self._shards.values()))

    @property
    def load(self) -> float:
        """Total cost of the waiting items."""
        return self._unassigned.load + sum(shard.load for shard in self._shards.values())

    def loads(self) -> dict[Hashable, float]:
        """Return the cost that waits in each worker's shard."""
        return {worker: shard.load for worker, shard in self._shards.items()}

    def push(self, items: Iterable[ItemT]) -> None:
        """Add items, each to the shard that is least loaded by then."""
        items = list(items)
        if not self._shards:
            for item in items:
                self._unassigned.add(item)
            return
        heap = [(shard.load, n, shard) for n, shard in enumerate(self._shards.values())]
        heapq.heapify(heap)
        for item in sorted(items, key=_shard_order):
            _, n, shard = heap[0]
            shard.add(item)
            heapq.heapreplace(heap, (shard.load, n, shard))

    def add_worker(self, worker: Hashable) -> None:
        """Make room for a worker and divide what waits anew."""
        self._shards[worker] = Shard()
        self._redistribute()

    def remove_worker(self, worker: Hashable) -> None:
        """Hand a worker's items to the others."""
        shard = self._shards.pop(worker, None)
        if shard is not None:
            self.push(shard.drain())

    def _redistribute(self) -> None:
        items = self._unassigned.drain()
        for shard in self._shards.values():
            items += shard.drain()
        self.push(items)

    def take(self, worker: Hashable, budget_tokens: int, pads: bool = True) -> list[ItemT]:
        """Return the worker's next micro-batch; empty if nothing waits anywhere."""
        shard = self._shards[worker]
        if not shard:
            self._steal_for(shard)
        return shard.take(budget_tokens, pads) if shard else []

    def _steal_for(self, thief: Shard[ItemT]) -> None:
        heaviest = max(self._shards.values(), key=lambda shard: (shard.load, len(shard)))
        for item in heaviest.give_half():
            thief.add(item)

    def drain(self) -> list[ItemT]:
        """Take every waiting item out."""
        items = self._unassigned.drain()
        for shard in self._shards.values():
            items += shard.drain()
        return items


def worth_another_worker(
    waiting_s: float, workers: int, load_s: float | None, waiting_items: int
) -> bool:
    """Tell whether a model should be put on one more device.

    It pays when the time it saves on the waiting work, spread evenly, exceeds the time
    that loading takes. Before anything was measured, one worker per eight waiting items
    is a guess that a small batch never pays for.

    Parameters
    ----------
    waiting_s
        Time one worker would take for what waits, in seconds.
    workers
        How many workers have or are getting the model.
    load_s
        Measured seconds to start a worker and load the model; None: unknown.
    waiting_items
        How many items wait.
    """
    if workers == 0:
        return waiting_items > 0
    if waiting_items <= workers:
        return False
    if load_s is None:
        return waiting_items >= 8 * workers
    return waiting_s / workers - waiting_s / (workers + 1) > load_s
