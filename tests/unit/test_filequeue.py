"""In which order inputs are read and outputs are written (M4)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.files.queue import MAX_PASSED, FileQueue, Level
from snakemake_executor_gpupool.testing.simulation import World

MIB = 1024**2
LEVELS = st.tuples(st.integers(-2, 2), st.integers(0, 1))


def drained(queue: FileQueue) -> list[int]:
    """Take all that waits."""
    return [queue.popleft() for _ in range(len(queue))]


def test_by_priority_then_small_ones_then_arrival() -> None:
    queue = FileQueue()
    levels: list[Level] = [(0, 1), (0, 0), (-5, 1), (0, 0), (-5, 0), (0, 1)]
    for job_id, level in enumerate(levels):
        queue.append(job_id, level)
    assert list(queue) == drained(queue) == [4, 2, 1, 3, 0, 5]
    with pytest.raises(IndexError):
        queue.popleft()


def test_small_ones_never_stop_large_ones() -> None:
    queue = FileQueue()
    for job_id in range(3):
        queue.append(1000 + job_id, (0, 1))
    taken = []
    for job_id in range(3 * MAX_PASSED + 3):  # one comes for each that goes
        queue.append(job_id, (0, 0))
        taken.append(queue.popleft())
    assert [taken.index(1000 + n) for n in range(3)] == [
        (n + 1) * (MAX_PASSED + 1) - 1 for n in range(3)
    ]


@given(st.lists(LEVELS), st.lists(LEVELS))
def test_nothing_is_lost_and_what_is_moved_goes_first(old: list[Level], new: list[Level]) -> None:
    queue, moved = FileQueue(), FileQueue()
    for job_id, level in enumerate(old):
        queue.append(job_id, level)
    for job_id, level in enumerate(new):
        moved.append(1000 + job_id, level)
    moved.move_to(queue)
    assert not len(moved) and not list(moved)
    order = list(queue)
    assert Counter(order) == Counter([*range(len(old)), *range(1000, 1000 + len(new))])
    for level in {*old, *new}:
        expected = [1000 + n for n, each in enumerate(new) if each == level]
        expected += [n for n, each in enumerate(old) if each == level]
        assert [n for n in order if n in set(expected)] == expected
    assert Counter(drained(queue)) == Counter(order)


def reads(world: World) -> list[int]:
    """The jobs whose inputs were read, in this order."""
    return [effect.request.job_id for effect in world.effects(fx.ReadJob)]


def test_a_small_input_is_not_read_behind_all_large_ones() -> None:
    world = World(read_s=1.0)
    for job_id in range(20):
        world.submit(job_id, [f"i{job_id}"], input_bytes=2 * MIB)
    world.run(until_s=3.5)
    before = len(reads(world))
    assert before < 6, "few bytes are sent ahead"
    world.submit(99, ["small"], input_bytes=100)
    world.run()
    assert reads(world)[before] == 99
    assert world.reports == dict.fromkeys([*range(20), 99])


def test_inputs_are_read_by_priority() -> None:
    world = World(read_s=1.0)
    for job_id in range(40):
        world.submit(job_id, [f"i{job_id}"], priority=int(job_id >= 30))
    world.run()
    assert set(reads(world)[:10]) == set(range(30, 40))


def test_many_small_inputs_are_sent_ahead_and_few_large_ones() -> None:
    counts = {}
    for size_bytes in (100, 2 * MIB):
        world = World(read_s=1.0)
        for job_id in range(20):
            world.submit(job_id, [f"i{job_id}"], input_bytes=size_bytes)
        world.run(until_s=0.5)
        counts[size_bytes] = len(reads(world))
        world.run()
        assert sorted(reads(world)) == list(range(20))
    assert counts == {100: 8, 2 * MIB: 1}
