"""The items that wait for a model's workers, in the order in which these take them. Pure.

All workers of a model take from one queue, the costliest items first. That is LPT, longest
processing time first: the worker that is free first has the least load so far. It needs
no shards that would have to be corrected when a cost was wrong, a worker is slower, comes
late or dies; and since the whole queue is in order of cost, neighbours are of like length,
which keeps padding small.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar, cast

#: (negated priority, 0 for short requests else 1): what goes before what. In the queue of a row of
#: models all are short: there the second one is the stage that they begin at.
Level = tuple[int, int]


class Weighted(Protocol):
    """What the queue must know of an item, and what it notes of it."""

    #: Where it waits in a queue; None: in none.
    run: Place | None

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
    def level(self) -> Level:
        """What goes before what."""

    @property
    def arrival(self) -> int:
        """Its number among all items."""


ItemT = TypeVar("ItemT", bound=Weighted)
#: (level, wave, group): items that may share a micro-batch.
Kind = tuple[Level, int, str]
#: (negated cost, negated tokens, arrival).
Rank = tuple[float, int, int]
#: Of very many items this many at a time are ordered by cost, so that whole jobs get done, and
#: their results can go, long before all are. Enough for neighbours to be of like length.
WAVE_ITEMS = 4096
#: After so many micro-batches of short requests, one of the others of their priority is next.
MAX_PASSED = 4


class WorkQueue(Generic[ItemT]):
    """The items that wait for one model's workers.

    By priority; then those of short requests; then the costliest first. At most ``MAX_PASSED``
    micro-batches of short requests in a row go before others of their priority that wait, so
    that a steady stream of them slows the others down, but never stops them.

    More than ``WAVE_ITEMS`` are taken in waves, by arrival; what remains in the end becomes one
    wave again, so that the costliest items never come last. What is pushed at once of a group is a
    run, a list in order; a group is a heap of runs by their first items, and so is the list of a
    level's groups: many items at once go in and out at next to no cost, and single ones in
    logarithmic time. Each item knows its run, so that any can be taken out at the cost of its run.

    References
    ----------
    R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969)
    416-429: with m workers the makespan is at most 4/3 - 1/(3m) times the least possible.
    """

    def __init__(self) -> None:
        # An entry whose rank is not that of its run any longer is out of date, and never the first.
        self._heaps: dict[Kind, list[tuple[Rank, int, Run[ItemT]]]] = {}
        self._runs = 0
        # Where each of a level's groups stands by its first item. An entry whose item is no
        # longer its group's first is out of date, and dropped when it comes up.
        self._heads: dict[Level, list[tuple[int, Rank, str]]] = {}
        self._groups: Counter[Level] = Counter()
        # By priority: how many micro-batches of short requests have passed others since one of
        # these was taken.
        self._passed: Counter[int] = Counter()
        self._count = 0
        self._wave = self._in_wave = 0
        #: Total cost of the waiting items.
        self.load = 0.0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ItemT]:
        heaps = self._heaps.values()
        runs = (run for heap in heaps for rank, _, run in heap if rank is run.rank)
        return (item for run in runs for item in reversed(run.items))

    def __contains__(self, item: object) -> bool:
        run = getattr(item, "run", None)
        return run is not None and run.queue is self

    def of_group(self, group: str) -> list[ItemT]:
        """Return the items of a group."""
        heaps = [heap for kind, heap in self._heaps.items() if kind[2] == group]
        runs = [run for heap in heaps for rank, _, run in heap if rank is run.rank]
        return [item for run in runs for item in reversed(run.items)]

    @property
    def has_levels(self) -> bool:
        """Whether short requests and others wait."""
        return len({is_long for _, is_long in self._heads}) > 1

    def push(self, items: Iterable[ItemT]) -> None:
        """Add items."""
        items, start = list(items), 0
        while start < len(items):
            if self._in_wave == WAVE_ITEMS:
                self._wave, self._in_wave = self._wave + 1, 0
            some = items[start : start + WAVE_ITEMS - self._in_wave]
            start += len(some)
            self._in_wave += len(some)
            self._push_to_wave(some)

    def _push_to_wave(self, items: list[ItemT]) -> None:
        for kind, some in self._runs_of(items).items():
            _sort(some)
            if kind not in self._heaps:
                self._groups[kind[0]] += 1
                self._heaps[kind] = []
            run: Run[ItemT] = Run(self, kind, some)
            for item in some:
                item.run = run
            self._enter(run)
            if self._heaps[kind][0][2] is run:
                self._put_up(kind)
        self._count += len(items)
        self.load += sum([item.cost for item in items])

    def _runs_of(self, items: list[ItemT]) -> dict[Kind, list[ItemT]]:
        """Divide items by what may share a micro-batch; mostly all may."""
        wave = self._wave
        if len({*[item.level for item in items]}) == len({*[item.group for item in items]}) == 1:
            return {(items[0].level, wave, items[0].group): [*items]}
        runs: dict[Kind, list[ItemT]] = {}
        for item in items:
            runs.setdefault((item.level, wave, item.group), []).append(item)
        return runs

    def _enter(self, run: Run[ItemT]) -> None:
        """Put a run where it belongs by its first item."""
        self._runs += 1
        run.rank = rank_of(run.items[-1])
        heapq.heappush(self._heaps[run.kind], (run.rank, self._runs, run))

    def _put_up(self, kind: Kind) -> None:
        level, wave, group = kind
        heapq.heappush(self._heads.setdefault(level, []), (wave, self._heaps[kind][0][0], group))

    def take(
        self,
        budget_tokens: int,
        pads: bool = True,
        most_cost: float = math.inf,
        quick: tuple[int, float] = (0, 0.0),
    ) -> list[ItemT]:
        """Take the next micro-batch: items of one group and priority, neighbours in cost.

        Parameters
        ----------
        budget_tokens
            The most tokens of a batch; a padded one takes its longest item's times its size.
        pads
            Whether batches are padded.
        most_cost
            The most cost of a batch. One item is taken whatever its tokens and cost.
        quick
            Up to how many tokens, and how much cost, it may go beyond the budget.
        """
        if self._wave and self._count <= WAVE_ITEMS // 2:
            self.push(self.drain())
        kind = self._first_kind()
        if kind is None:
            return []
        heap, batch = self._heaps[kind], list[ItemT]()
        budget = _Budget(budget_tokens, pads, most_cost, quick)
        is_full = False
        while heap and not is_full:
            run = heap[0][2]
            if len(heap) == 1:
                is_full = budget.fill(batch, run.items)
            else:
                is_full = budget.fill(batch, run.items, min(heap[1:3])[0])
            if run.items:
                run.rank = rank_of(run.items[-1])
                heapq.heapreplace(heap, (run.rank, heap[0][1], run))
            else:
                heapq.heappop(heap)
        for item in batch:
            item.run = None
        self.load -= budget.cost
        self._count -= len(batch)
        self._tidy_up(kind)
        return batch

    def _first_kind(self) -> Kind | None:
        """Choose whose turn it is; a waiting item that was passed often enough goes first."""
        if not self._heads:
            return None
        first = min(self._heads)
        priority, is_long = first
        others = (priority, 1)
        if is_long or others not in self._heads:
            self._passed[priority] = 0
        elif self._passed[priority] < MAX_PASSED:
            self._passed[priority] += 1
        else:
            self._passed[priority] = 0
            first = others
        return self._first_of(first)

    def _first_of(self, level: Level) -> Kind:
        heads = self._heads[level]
        while True:
            wave, rank, group = heads[0]
            heap = self._heaps.get((level, wave, group))
            if heap and heap[0][0] == rank:
                return level, wave, group
            heapq.heappop(heads)

    def _tidy_up(self, kind: Kind) -> None:
        """Say where a group stands now that some of it was taken."""
        heapq.heappop(self._heads[kind[0]])
        self._first_has_changed(kind)
        if not self._count:
            self.drain()  # what is left of the load is rounding

    def _first_has_changed(self, kind: Kind) -> None:
        """Say where a group stands by its first item; nowhere, if it has none."""
        level = kind[0]
        if self._heaps[kind]:
            self._put_up(kind)
        else:
            del self._heaps[kind]
            self._groups[level] -= 1
            if not self._groups[level]:
                del self._heads[level]

    def remove(self, items: Iterable[ItemT]) -> None:
        """Take these items out, all of which wait here."""
        runs: dict[Run[ItemT], None] = {}
        for item in items:
            runs[cast("Run[ItemT]", item.run)] = None
            item.run = None
            self._count -= 1
            self.load -= item.cost
        for run in runs:
            run.items = [item for item in run.items if item.run is run]
            self._take_up(run)
        if not self._count:
            self.drain()

    def _take_up(self, run: Run[ItemT]) -> None:
        """Put a run where it belongs, of which some items were removed."""
        heap = self._heaps[run.kind]
        first = heap[0]
        if not run.items:
            run.rank = None
        elif rank_of(run.items[-1]) != run.rank:
            self._enter(run)
        _drop_outdated(heap)
        if not heap or heap[0] is not first:
            self._first_has_changed(run.kind)

    def drain(self) -> list[ItemT]:
        """Take every waiting item out."""
        items = list(self)
        for item in items:
            item.run = None
        self._heaps, self._heads, self._count, self.load = {}, {}, 0, 0.0
        self._wave = self._in_wave = 0
        self._groups.clear()
        return items


class Place:
    """Where items wait: in which queue."""

    __slots__ = ("queue",)

    def __init__(self, queue: object) -> None:
        self.queue = queue


class Run(Place, Generic[ItemT]):
    """Items of one kind, in the order in which they are taken, the first one last.

    Attributes
    ----------
    rank
        Of the first one, as it stands in its heap; None: it has no items.
    """

    __slots__ = ("items", "kind", "rank")

    def __init__(self, queue: object, kind: Kind, items: list[ItemT]) -> None:
        super().__init__(queue)
        self.kind, self.items = kind, items
        self.rank: Rank | None = None


def _drop_outdated(heap: list[tuple[Rank, int, Run[ItemT]]]) -> None:
    """Drop entries that are out of date, until the first one is not."""
    while heap and heap[0][0] is not heap[0][2].rank:
        heapq.heappop(heap)


def rank_of(item: Weighted) -> Rank:
    """Return where an item stands in its group: the costliest first, then the longest."""
    return -item.cost, -item.tokens, item.arrival


def _sort(run: list[ItemT]) -> None:
    """Put those last that are to be taken first; where all weigh the same, by arrival alone."""
    if len({*[item.cost for item in run]}) == len({*[item.tokens for item in run]}) == 1:
        run.sort(key=_arrival_of, reverse=True)
    else:
        run.sort(key=rank_of, reverse=True)


def _arrival_of(item: Weighted) -> int:
    return item.arrival


class _Budget:
    """How much one micro-batch may have, and has so far."""

    __slots__ = ("_longest", "_most_cost", "_pads", "_quick", "_tokens", "_total", "cost")

    def __init__(self, tokens: int, pads: bool, most_cost: float, quick: tuple[int, float]) -> None:
        self._tokens, self._pads, self._most_cost, self._quick = tokens, pads, most_cost, quick
        self._longest = self._total = 0
        self.cost = 0.0

    def fill(self, batch: list[ItemT], run: list[ItemT], until: Rank | None = None) -> bool:
        """Move items from the end of a run to the batch; return whether the batch is full.

        ``until``: the rank of the first item that is not in the run.
        """
        before, longest, total, cost = len(batch), self._longest, self._total, self.cost
        budget, pads, most_cost = self._tokens, self._pads, self._most_cost
        more_tokens, more_cost = self._quick
        size, is_full = before, False
        for item in reversed(run):
            if until is not None and rank_of(item) > until:
                break
            tokens, costlier = item.tokens, cost + item.cost
            longer = tokens if tokens > longest else longest
            padded = (size + 1) * longer if pads else total + tokens  # as ``padded_size``
            is_more = padded > budget and (padded > more_tokens or costlier > more_cost)
            if (is_more or costlier > most_cost) and size:
                is_full = True
                break
            longest, total, cost, size = longer, total + tokens, costlier, size + 1
        self._longest, self._total, self.cost = longest, total, cost
        if size > before:
            taken = run[before - size :]
            taken.reverse()
            batch += taken
            del run[before - size :]
        return is_full
