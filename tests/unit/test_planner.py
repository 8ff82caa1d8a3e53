"""LPT shards, the sharded queue and micro-batches (P2, P3, P4, P7)."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.planner import (
    ShardedQueue,
    batch_length,
    lpt_shards,
    worth_another_worker,
)

COSTS = st.lists(st.floats(0, 1e6, allow_nan=False), max_size=60)


@dataclass(frozen=True)
class Item:
    """What the planner needs of an item."""

    number: int
    cost: float = 1.0
    tokens: int = 1
    group: str = "g"
    priority: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return (-self.priority, self.number)


def makespan(costs: list[float], shards: list[list[int]]) -> float:
    return max(sum(costs[i] for i in shard) for shard in shards)


def best_makespan(costs: list[float], workers: int) -> float:
    """The optimum, by trying every assignment."""
    assignments = itertools.product(range(workers), repeat=len(costs))
    return min(
        max(sum(c for c, w in zip(costs, chosen, strict=True) if w == k) for k in range(workers))
        for chosen in assignments
    )


@given(COSTS, st.integers(1, 8))
def test_every_item_is_in_one_shard(costs: list[float], workers: int) -> None:  # P2
    shards = lpt_shards(costs, workers)
    assert len(shards) == workers
    assert sorted(itertools.chain(*shards)) == list(range(len(costs)))
    assert all(costs[a] >= costs[b] for shard in shards for a, b in itertools.pairwise(shard))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_the_makespan_is_within_grahams_bound(costs: list[int], workers: int) -> None:  # P2
    reached = makespan([float(c) for c in costs], lpt_shards(costs, workers))
    bound = (4 / 3 - 1 / (3 * workers)) * best_makespan([float(c) for c in costs], workers)
    assert reached <= bound + 1e-9


@given(COSTS, st.integers(1, 8))
def test_lpt_is_deterministic_and_ties_are_stable(costs: list[float], workers: int) -> None:  # P2
    assert lpt_shards(costs, workers) == lpt_shards(list(costs), workers)
    equal = lpt_shards([1.0] * 6, 3)
    assert equal == [[0, 3], [1, 4], [2, 5]]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40), st.sampled_from("ab")), max_size=50),
    st.integers(1, 100),
    st.integers(0, 2**32),
)
def test_the_queue_gives_every_item_once(
    specs: list[tuple[int, int, str]], budget: int, seed: int
) -> None:  # P2 P3 P7
    chance = random.Random(seed)
    queue: ShardedQueue[Item] = ShardedQueue()
    items = [
        Item(n, cost=float(tokens), tokens=tokens, group=group, priority=priority)
        for n, (priority, tokens, group) in enumerate(specs)
    ]
    queue.push(items[::2])
    workers = ["w0"]
    queue.add_worker("w0")
    queue.push(items[1::2])
    given_out: list[Item] = []
    while len(queue):
        if chance.random() < 0.2 and len(workers) < 5:
            workers.append(f"w{len(workers)}x{chance.random()}")
            queue.add_worker(workers[-1])
        if chance.random() < 0.1 and len(workers) > 1:
            queue.remove_worker(workers.pop(chance.randrange(len(workers))))
        batch = queue.take(chance.choice(workers), budget)
        assert batch, "work waits, so an idle worker gets some"
        assert len({(item.group, item.priority) for item in batch}) == 1
        assert len(batch) == 1 or max(i.tokens for i in batch) * len(batch) <= budget
        given_out += batch
    assert sorted(item.number for item in given_out) == list(range(len(items)))
    assert queue.load == pytest.approx(0)


def test_an_idle_worker_takes_from_the_heaviest_shard() -> None:  # P3
    queue: ShardedQueue[Item] = ShardedQueue()
    for worker in ("a", "b", "c"):
        queue.add_worker(worker)
    queue.push(Item(n) for n in range(30))
    for _ in range(10):
        queue.take("a", 1)
    queue.take("b", 1)
    assert queue.loads() == {"a": 0, "b": 9, "c": 10}
    queue.take("a", 1)
    assert queue.loads()["c"] == 5


def test_no_shard_is_made_before_there_is_a_worker() -> None:
    queue: ShardedQueue[Item] = ShardedQueue()
    queue.push([Item(1), Item(2)])
    assert (len(queue), queue.load) == (2, 2.0)
    queue.add_worker("a")
    assert len(queue.take("a", 10)) == 2


def test_higher_priority_comes_first_whatever_its_length() -> None:  # M4
    queue: ShardedQueue[Item] = ShardedQueue()
    queue.add_worker("a")
    queue.push([Item(1, cost=9), Item(2, cost=1, priority=5), Item(3, cost=5)])
    assert [queue.take("a", 1)[0].number for _ in range(3)] == [2, 1, 3]


def test_a_batch_is_never_empty_and_counts_padding() -> None:  # P7
    items = [Item(n, tokens=t) for n, t in enumerate([50, 40, 10, 10])]
    assert batch_length(items, 10, pads=True) == 1
    assert batch_length(items, 100, pads=True) == 2
    assert batch_length(items, 100, pads=False) == 3
    assert batch_length(items, 110, pads=False) == 4
    assert batch_length([], 10, pads=True) == 0


@pytest.mark.parametrize(
    ("waiting_s", "workers", "load_s", "items", "worth"),
    [
        (0.0, 0, None, 1, True),  # the first worker always
        (100.0, 1, 10.0, 50, True),  # saves 50 s for 10
        (15.0, 1, 10.0, 50, False),  # saves 7.5 s for 10
        (100.0, 4, 10.0, 50, False),  # saves 5 s for 10
        (100.0, 1, 1.0, 1, False),  # one item cannot be split
        (0.0, 1, None, 7, False),
        (0.0, 1, None, 8, True),
        (0.0, 2, None, 15, False),
    ],
)
def test_another_worker_only_where_it_pays(
    waiting_s: float, workers: int, load_s: float | None, items: int, worth: bool
) -> None:  # P4
    assert worth_another_worker(waiting_s, workers, load_s, items) is worth
