"""With how few loads a graph can be computed by somebody who knows all of it: an exact search."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.testing.graphs import Graph

#: A set of numbers, as bits.
Bits = int


@dataclass(frozen=True)
class _State:
    """Which jobs are done, and which models are loaded."""

    done: Bits
    loaded: frozenset[int]


def fewest_loads(graph: Graph, most_states: int = 20_000) -> tuple[int, bool]:
    """Return with how few loads a graph can be computed.

    A model that is loaded computes at once all that it can, and time does not matter, so that no
    order of the jobs and no choice of what is evicted needs fewer loads. More than one worker of a
    model is never needed, and counts as a load too many, however much sooner the work is done.

    Returns
    -------
    tuple
        The number, and whether it is exact: else the search was too long, and no order has fewer.
    """
    return _Search(graph).run(most_states)


class _Search:
    """A* over the orders: first what may be done with the fewest loads."""

    def __init__(self, graph: Graph) -> None:
        jobs, number_of = graph.jobs, {model: n for n, model in enumerate(graph.models)}
        self._devices = graph.devices
        self._needs: list[Bits] = [sum(1 << before for before in job.after) for job in jobs]
        self._jobs_of: list[list[int]] = [[] for _ in number_of]
        for number, job in enumerate(jobs):
            self._jobs_of[number_of[job.model]].append(number)
        self._bits_of: list[Bits] = [sum(1 << n for n in numbers) for numbers in self._jobs_of]
        self._all: Bits = (1 << len(jobs)) - 1

    def run(self, most_states: int) -> tuple[int, bool]:
        start = _State(0, frozenset())
        serial = itertools.count()
        heap = [(self._at_least(start), 0, next(serial), 0, start)]
        best = {start: 0}
        bound = 0
        for _ in range(most_states):
            promised, _, _, loads, state = heapq.heappop(heap)
            bound = max(bound, promised)
            if state.done == self._all:
                return loads, True
            for then in self._after_one_load(state):
                if best.get(then, loads + 2) > loads + 1:
                    best[then] = loads + 1
                    promised = loads + 1 + self._at_least(then)
                    # Of equal promise, what has done more is looked at first.
                    order = promised, -then.done.bit_count(), next(serial), loads + 1, then
                    heapq.heappush(heap, order)
        return bound, False

    def _at_least(self, state: _State) -> int:
        """Each model that has jobs left and is not loaded has to be."""
        undone = self._all & ~state.done
        return sum(
            bool(bits & undone)
            for model, bits in enumerate(self._bits_of)
            if model not in state.loaded
        )

    def _after_one_load(self, state: _State) -> Iterator[_State]:
        undone = self._all & ~state.done
        kept = frozenset(model for model in state.loaded if self._bits_of[model] & undone)
        for model in range(len(self._jobs_of)):
            if model in kept or not any(map(self._is_ready(state.done), self._jobs_of[model])):
                continue
            if len(kept) < self._devices:
                yield self._computed(state.done, kept | {model})
                continue
            for victim in sorted(kept):
                yield self._computed(state.done, kept - {victim} | {model})

    def _is_ready(self, done: Bits) -> Callable[[int], bool]:
        return lambda n: not done >> n & 1 and not self._needs[n] & ~done

    def _computed(self, done: Bits, loaded: frozenset[int]) -> _State:
        """Compute all that can be with the models that are loaded."""
        before = -1
        while before != done:
            before = done
            for model in sorted(loaded):
                for number in self._jobs_of[model]:
                    if not self._needs[number] & ~done:
                        done |= 1 << number
        return _State(done, loaded)
