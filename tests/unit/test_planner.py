"""The work queue, its micro-batches, and how many workers pay (P2, P3, P4, P7)."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling.models import work_queue
from snakemake_executor_gpupool.scheduling.models.plan import (
    SLACK,
    ends_before_a_load,
    fair_share,
    finish_s,
    workers_that_pay,
)
from snakemake_executor_gpupool.scheduling.models.shares import deal
from snakemake_executor_gpupool.scheduling.models.work_queue import WAVE_ITEMS, Place, WorkQueue

COSTS = st.lists(st.floats(0, 1e6, allow_nan=False), max_size=60)


@dataclass(eq=False)
class Item:
    """What the queue needs of an item."""

    number: int
    cost: float = 1.0
    tokens: int = 1
    group: str = "g"
    priority: int = 0
    run: Place | None = None
    short: bool = False

    @property
    def level(self) -> tuple[int, int]:
        return -self.priority, int(not self.short)

    @property
    def arrival(self) -> int:
        return self.number


def queue_of(items: list[Item]) -> WorkQueue[Item]:
    queue: WorkQueue[Item] = WorkQueue()
    queue.push(items)
    return queue


def taken_alone(queue: WorkQueue[Item]) -> list[int]:
    """The numbers of all items, in the order in which the queue gives them."""
    return [queue.take(budget_tokens=1)[0].number for _ in range(len(queue))]


def best_makespan(costs: list[float], workers: int) -> float:
    """The optimum, by trying every assignment."""
    assignments = itertools.product(range(workers), repeat=len(costs))
    return min(
        max(sum(c for c, w in zip(costs, chosen, strict=True) if w == k) for k in range(workers))
        for chosen in assignments
    )


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_whoever_is_free_takes_the_costliest_and_keeps_to_grahams_bound(
    costs: list[int], workers: int
) -> None:  # P2
    queue = queue_of([Item(number, float(cost)) for number, cost in enumerate(costs)])
    free_at = [0.0] * workers
    while queue:
        first = free_at.index(min(free_at))
        free_at[first] += queue.take(budget_tokens=1)[0].cost
    assert max(free_at) == finish_s([float(c) for c in costs], [0.0] * workers)
    bound = (4 / 3 - 1 / (3 * workers)) * best_makespan([float(c) for c in costs], workers)
    assert max(free_at) <= bound + 1e-9


@given(COSTS, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_that_of_arrival(
    costs: list[float], chance: random.Random
) -> None:  # P2 R5
    items = [Item(number, cost) for number, cost in enumerate(costs)]
    expected = [item.number for item in sorted(items, key=lambda item: (-item.cost, item.number))]
    chance.shuffle(items)
    assert taken_alone(queue_of(items)) == expected


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40), st.sampled_from("ab")), max_size=50),
    st.integers(1, 100),
    st.floats(1, 100),
    st.tuples(st.integers(0, 200), st.floats(0, 100)),
    st.integers(0, 2**32),
)
def test_the_queue_gives_every_item_once(
    specs: list[tuple[int, int, str]],
    budget: int,
    most_cost: float,
    quick: tuple[int, float],
    seed: int,
) -> None:  # P2 P3 P7
    chance = random.Random(seed)
    coming = [
        Item(number, cost=float(tokens), tokens=tokens, group=group, priority=priority)
        for number, (priority, tokens, group) in enumerate(specs)
    ]
    queue: WorkQueue[Item] = WorkQueue()
    given_out: list[Item] = []
    while coming or queue:
        if coming and (chance.random() < 0.5 or not queue):
            queue.push(coming[:7])
            coming = coming[7:]
            continue
        waiting = list(queue)
        batch = queue.take(budget, pads=True, most_cost=most_cost, quick=quick)
        assert {(item.group, item.priority) for item in batch} == {
            (batch[0].group, batch[0].priority)
        }
        tokens, cost = max(i.tokens for i in batch) * len(batch), sum(i.cost for i in batch)
        is_quick = tokens <= quick[0] and cost <= quick[1]
        assert len(batch) == 1 or tokens <= budget or is_quick
        assert len(batch) == 1 or cost <= most_cost
        highest = max(item.priority for item in waiting)
        assert batch[0].priority == highest
        assert batch[0].cost == max(i.cost for i in waiting if i.priority == highest)
        given_out += batch
    assert sorted(item.number for item in given_out) == list(range(len(specs)))
    assert (queue.load, queue.take(budget)) == (0.0, [])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.sampled_from("ab")), max_size=40),
    st.lists(st.tuples(st.sampled_from(["push", "take", "remove"]), st.integers(1, 9))),
    st.sampled_from([4, 1000]),
    st.randoms(use_true_random=False),
)
def test_what_is_removed_is_as_if_it_had_never_come(
    specs: list[tuple[int, int, str]],
    acts: list[tuple[str, int]],
    wave_items: int,
    chance: random.Random,
) -> None:  # P2 M4
    coming = [Item(n, cost, cost, group, p) for n, (p, cost, group) in enumerate(specs)]
    left: dict[Item, None] = {}
    with mock.patch.object(work_queue, "WAVE_ITEMS", wave_items):
        queue: WorkQueue[Item] = WorkQueue()
        for act, count in acts:
            if act == "push":
                some, coming = coming[:count], coming[count:]
                queue.push(some)
                left |= dict.fromkeys(some)
            else:
                some = (
                    queue.take(count)
                    if act == "take"
                    else chance.sample([*left], count % (len(left) + 1))
                )
                if act == "remove":
                    queue.remove(some)
                assert some or act == "remove" or not left
                left = {item: None for item in left if item not in some}
            assert {*queue} == left.keys() and len(queue) == len(left)
            assert {item for item in (*left, *coming, *some) if item in queue} == left.keys()
            assert {*queue.of_group("a")} == {item for item in left if item.group == "a"}
            assert queue.load == pytest.approx(sum(item.cost for item in left))
        fresh = queue_of([dataclasses.replace(item, run=None) for item in left])
        taken = taken_alone(queue)
        assert taken == taken_alone(fresh) or (wave_items == 4 and len(taken) == len(left))
    assert (len(queue), queue.load) == (0, 0.0)


@pytest.mark.parametrize(
    ("runs", "gone", "left"),
    [("a9 a1, b5", 9, [5, 1]), ("a8, a7 a1, b5", 7, [8, 5, 1]), ("a8, a6, b7 b5", 8, [7, 6, 5])],
)
def test_a_group_stands_where_the_first_of_its_items_does_that_was_not_removed(
    runs: str, gone: int, left: list[int]
) -> None:  # P2
    queue: WorkQueue[Item] = WorkQueue()
    for run in runs.split(", "):
        queue.push([Item(int(name[1]), float(name[1]), group=name[0]) for name in run.split()])
    queue.remove([item for item in queue if item.number == gone])
    assert taken_alone(queue) == left


def test_levels_are_gone_with_the_last_of_their_items() -> None:
    long, short = Item(1), Item(2, short=True)
    queue = queue_of([long, short])
    assert queue.has_levels
    queue.remove([short])
    assert not queue.has_levels and taken_alone(queue) == [1]


def test_removing_items_one_by_one_looks_at_each_a_few_times() -> None:  # P6
    """Many jobs of one model that are cancelled, each with its items."""

    class Counted(Item):
        looks = 0

        @property
        def arrival(self) -> int:
            Counted.looks += 1
            return self.number

    jobs = [[Counted(4 * job + n) for n in range(4)] for job in range(500)]
    queue: WorkQueue[Item] = WorkQueue()
    for job in jobs:
        queue.push(job)
    Counted.looks = 0
    random.Random(0).shuffle(jobs)
    for job in jobs:
        queue.remove(job)
    assert len(queue) == 0 and Counted.looks <= 4 * 2000


def test_very_many_items_go_in_waves_and_the_costliest_never_last() -> None:  # P2 P8
    chance = random.Random(0)
    items = [Item(n, cost=chance.uniform(1, 2)) for n in range(2 * WAVE_ITEMS + 2)]
    items.append(Item(len(items), cost=99.0))
    queue = queue_of(items)
    taken = taken_alone(queue)
    assert sorted(taken) == list(range(len(items)))
    assert set(taken[:WAVE_ITEMS]) == set(range(WAVE_ITEMS))
    last = taken[WAVE_ITEMS + WAVE_ITEMS // 2 + 3 :]
    assert last[0] == len(items) - 1
    costs = [items[number].cost for number in last]
    assert costs == sorted(costs, reverse=True) and len(last) == WAVE_ITEMS // 2


def test_the_group_with_the_costliest_item_is_next() -> None:  # P2
    queue = queue_of([Item(1, 5, group="a"), Item(2, 9, group="b"), Item(3, 4, group="a")])
    queue.push([Item(4, 7, group="a")])
    batches = [[item.number for item in queue.take(budget_tokens=2)] for _ in range(3)]
    assert batches == [[2], [4, 1], [3]]


@pytest.mark.parametrize(
    ("quick", "sizes"),
    [((0, 0.0), [3, 3, 1]), ((6, 99.0), [6, 1]), ((6, 4.5), [4, 3]), ((2, 99.0), [3, 3, 1])],
)
def test_a_batch_goes_beyond_its_budget_as_far_as_it_is_quick(
    quick: tuple[int, float], sizes: list[int]
) -> None:  # P7
    queue = queue_of([Item(number) for number in range(7)])
    batches = [queue.take(3, pads=False, quick=quick) for _ in sizes]
    assert [len(batch) for batch in batches] == sizes and not queue


def test_what_takes_long_stays_within_the_budget() -> None:  # P7
    queue = queue_of([Item(number, cost=5.0 if number < 4 else 0.1) for number in range(10)])
    batches = [queue.take(4, pads=False, quick=(8, 1.0)) for _ in range(2)]
    assert [[item.cost for item in batch] for batch in batches] == [[5.0] * 4, [0.1] * 6]


def test_higher_priority_comes_first_whatever_its_length() -> None:  # M4
    queue = queue_of([Item(1, cost=9), Item(2, cost=1, priority=5), Item(3, cost=5)])
    assert taken_alone(queue) == [2, 1, 3]


def test_what_is_drained_is_gone() -> None:
    queue = queue_of([Item(1), Item(2, group="b")])
    assert {item.number for item in queue.drain()} == {1, 2}
    assert (len(queue), queue.load, list(queue), queue.take(10)) == (0, 0.0, [], [])


def test_a_batch_is_never_empty_and_counts_padding() -> None:  # P7
    def count(budget: int, pads: bool) -> int:
        items = [Item(n, cost=t, tokens=t) for n, t in enumerate([50, 40, 10, 10])]
        return len(queue_of(items).take(budget, pads))

    assert count(10, pads=True) == 1
    assert count(100, pads=True) == 2
    assert count(100, pads=False) == 3
    assert count(110, pads=False) == 4


def test_batches_become_smaller_towards_the_end_if_there_are_several_workers() -> None:  # P3
    queue = queue_of([Item(number) for number in range(64)])
    sizes = []
    while queue:
        sizes.append(len(queue.take(1000, most_cost=fair_share(queue.load, workers=4))))
    assert sizes[:2] == [8, 7] and sizes[-8:] == [1] * 8 and sizes == sorted(sizes, reverse=True)
    assert fair_share(10.0, workers=1) == float("inf")


@pytest.mark.parametrize(
    ("items_s", "free_at_s", "load_s", "free", "wanted"),
    [
        ([], [], 1.0, 8, 0),
        ([0.01], [], 100.0, 8, 1),  # one is always needed
        ([5.0, 5.0], [], 100.0, 0, 1),  # but no device is taken to save 5 s
        ([5.0, 5.0], [], 1.0, 8, 2),
        ([1.0] * 16, [], 0.0, 8, 8),
        ([1.0] * 16, [], 100.0, 8, 3),  # 106 s; with eight 102 s
        ([1.0] * 8, [0.0], 100.0, 7, 1),  # done before another could start
        ([10.0] * 10, [0.0], 10.0, 7, 5),  # 30 s; more would be no sooner
        ([10.0] * 10, [0.0], 10.0, 0, 3),  # two take 60 s, three 40 s; a fourth saves nothing
        ([100.0], [0.0], 1.0, 7, 1),  # one item cannot be divided
        ([1.0, 1.0], [3.0], 1.0, 7, 3),  # the one that is there is busy
    ],
)
def test_another_worker_only_where_it_pays(
    items_s: list[float], free_at_s: list[float], load_s: float, free: int, wanted: int
) -> None:  # P4
    assert workers_that_pay(items_s, free_at_s, load_s, free, most=8) == wanted


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=16),
    st.lists(st.floats(0, 50), max_size=3),
    *(st.floats(0, 1000), st.integers(0, 8), st.integers(1, 8)),
)
def test_what_one_worker_does_before_a_load_needs_no_look_at_its_items(
    items_s: list[float], free_at_s: list[float], load_s: float, free: int, most: int
) -> None:  # P4
    if ends_before_a_load(sum(items_s), free_at_s, load_s):
        assert workers_that_pay(items_s, free_at_s, load_s, free, most) == len(free_at_s)
    assert not ends_before_a_load(0.0, [], load_s), "the first one is needed in any case"


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=16),
    st.lists(st.floats(0, 50), max_size=3),
    st.floats(0, 1000),
    st.integers(1, 8),
)
def test_no_other_number_of_workers_would_be_much_sooner(
    items_s: list[float], free_at_s: list[float], load_s: float, most: int
) -> None:  # P4
    now, most = len(free_at_s), max(most, len(free_at_s))

    def end_s(workers: int) -> float:
        return finish_s(items_s, [*free_at_s, *[load_s] * (workers - now)])

    wanted = workers_that_pay(items_s, free_at_s, load_s, most - now, most)
    assert max(now, 1) <= wanted <= most
    assert (
        end_s(wanted) <= SLACK * min(end_s(count) for count in range(max(now, 1), most + 1)) + 1e-9
    )
    strict = workers_that_pay(items_s, free_at_s, load_s, 0, most)
    for count in range(max(now, 1), strict):
        assert end_s(count) - end_s(count + 1) > load_s


@pytest.mark.parametrize(
    ("works_s", "workers", "devices", "dealt"),
    [
        ([42.0, 35.0], [5, 2], 1, [0, 1]),
        ([42.0, 35.0], [1, 1], 4, [2, 2]),
        ([60.0, 10.0], [0, 0], 3, [2, 1]),
        ([60.0, 0.0], [1, 0], 2, [2, 0]),
        ([], [], 3, []),
    ],
)
def test_devices_go_where_most_waits_for_each_worker(
    works_s: list[float], workers: list[int], devices: int, dealt: list[int]
) -> None:
    assert deal(works_s, workers, devices) == dealt
