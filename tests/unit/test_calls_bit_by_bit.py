"""Calls of many items: their caller brings them bit by bit, as there is room (P5, P6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import INFO, FakeItem
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import JobReport

MODEL = ModelInfo("m", "", "g", 0)


@contextmanager
def sizes(most_open: int, piece: int, call_items: int, call_open: int) -> Iterator[None]:
    """Have calls brought bit by bit that have few items."""
    numbers = {"MAX_OPEN": most_open, "PIECE_ITEMS": piece}
    numbers |= {"CALL_ITEMS": call_items, "CALL_OPEN": call_open, "CALL_BATCHES": 1}
    numbers |= {"CALL_FIRST": call_open}
    with mock.patch.multiple(packed, **numbers):
        yield


class Callers:
    """Those who have made calls: each brings more of its items when it is asked to, and then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._items: dict[int, list[FakeItem]] = {}
        self._brought: dict[int, int] = {}
        self.asked: list[int] = []
        self.most_open = 0
        world.on_decided = self._decided

    def call(self, job_id: int, keys: Sequence[str], first: int) -> None:
        """Make a call."""
        world = self._world
        self._items[job_id] = items = [FakeItem(key) for key in keys]
        world.declare(job_id, items)
        message = self._next(job_id, first)
        info = ToolInfo.from_fields(Fields({**INFO, **world.info}, "a tool"))
        to_come = len(keys) - len(message.keys)
        world.take(ev.CallReady(world.requests[job_id], info, message, to_come))
        world._act()

    def _next(self, job_id: int, count: int) -> ItemsRead:
        start = self._brought.get(job_id, 0)
        end = self._brought[job_id] = min(start + count, len(self._items[job_id]))
        some = self._items[job_id][start:end]
        names = tuple(f"{item.key}@{start + n}" for n, item in enumerate(some))
        payloads = self._world._stored([item.key.encode() for item in some])
        return ItemsRead(
            *(job_id, MODEL, tuple(item.key for item in some)),
            *(tuple(item.cost for item in some), tuple(item.tokens for item in some)),
            *(names, tuple(payloads)),
            is_last=end == len(self._items[job_id]),
        )

    def _bring(self, job_id: int) -> None:
        self._world.take(ev.CallContinued(self._next(job_id, packed.CALL_ITEMS)))

    def _decided(self, event: ev.Event, now_s: float, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.WantItems):
                self.asked.append(effect.job_id)
                self._world.at(now_s + 0.01, lambda job_id=effect.job_id: self._bring(job_id))
        jobs = self._world.scheduler.jobs
        self.most_open = max([self.most_open, *(jobs[job_id].missing for job_id in jobs.ids())])

    def results(self, job_id: int) -> list[str]:
        """Return what a call was given."""
        report = self.report(job_id)
        assert report.error is None
        settled: Sequence[object] = report.details["settled"]  # type: ignore[assignment]
        found = [blob for piece in settled for blob in piece.results()]  # type: ignore[attr-defined]
        blobs, order = report.details["blobs"], report.details["order"]
        found += [blobs[place] for place in order]  # type: ignore[index, attr-defined]
        return [self._world.text(blob) for blob in found]

    def report(self, job_id: int) -> JobReport:
        """Return how a call has ended."""
        reports = [effect.report for effect in self._world.effects(fx.Report)]
        return next(report for report in reports if report.job_id == job_id)


CALLS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=24), st.integers(1, 6)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    CALLS,
    *(st.integers(1, 2), st.integers(1, 5), st.lists(st.floats(0, 8), max_size=1), st.booleans()),
    *(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
)
def test_every_call_gets_its_own_whatever_is_brought_when(
    calls: list[tuple[list[str], int]],
    gpus: int,
    budget: int,
    kill_times_s: list[float],
    shares: bool,
    most_open: int,
    piece: int,
    call_items: int,
    call_open: int,
) -> None:  # P5 P6 W4
    with sizes(most_open, piece, call_items, call_open):
        world = World(gpus=gpus, budget_tokens=budget, load_s=0.3, shares=shares)
        callers = Callers(world)
        for number, (keys, first) in enumerate(calls):
            world.at(
                0.7 * number,
                lambda number=number, keys=keys, first=first: callers.call(number, keys, first),
            )
        for time_s in kill_times_s:
            world.at(time_s, world.kill_first)
        world.run()
    for number, (keys, first) in enumerate(calls):
        assert callers.results(number) == [f"result of {key}" for key in keys]
        rest = max(len(keys) - first, 0)
        assert callers.asked.count(number) == -(-rest // call_items), "asked once for each bit"
    if not kill_times_s:
        assert len(world.computed) == len(set(world.computed)), "an item is computed once"


def large(world: World, count: int = 60) -> Callers:
    """Call for as many different items, of which six may be open, three of them brought first."""
    callers = Callers(world)
    callers.call(1, [f"i{number}" for number in range(count)], 3)
    return callers


def test_of_a_large_call_few_items_are_there_at_a_time() -> None:
    with sizes(16, 2, 2, 3):
        world = World(gpus=1, budget_tokens=2)
        callers = large(world)
        world.run()
        assert callers.results(1) == [f"result of i{number}" for number in range(60)]
    assert callers.most_open <= 6, "as many as are work for one worker, and once more"
    assert world.scheduler.ledger.computed == world.scheduler.ledger.unique == 60


def test_a_call_that_fails_is_asked_for_nothing_more() -> None:  # W3
    with sizes(16, 2, 2, 3):
        world = World(budget_tokens=1, bad={"i4"})
        callers = large(world)
        world.run()
    assert "item i4@4" in str(callers.report(1).error)
    assert len(callers.asked) <= 5, "not for the rest of 60 items"


def test_what_is_brought_for_a_call_that_has_failed_is_thrown_away() -> None:
    with sizes(16, 2, 2, 3):
        world = World(budget_tokens=1, bad={"i1"}, shares=True)
        callers = large(world)
        world.run()
        callers._bring(1)
        world._act()
    left = [text for (path, _), text in world.contents.items() if path not in world.removed]
    assert all(text.startswith(b"result") for text in left), "items that nobody needs"


def test_a_call_whose_caller_gives_up_leaves_nothing() -> None:
    with sizes(16, 2, 2, 3):
        world = World(budget_tokens=2, shares=True)
        callers = large(world)
        world.at(1.5, lambda: world.take(ev.JobUnwanted(1, "its call has ended")))
        world.run()
    assert "its call has ended" in str(callers.report(1).error)
    left = [text for (path, _), text in world.contents.items() if path not in world.removed]
    assert all(text.startswith(b"result") for text in left), "items that nobody needs"


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_call_gets_as_many_workers_however_it_is_brought(is_whole: bool) -> None:  # P4
    """What is still to come is work, too: 600 s of it, of which a load takes 20."""
    with sizes(64, 8, 8, 16):
        world = World(gpus=4, budget_tokens=4, load_s=20.0)
        callers = Callers(world)
        callers.call(1, [f"i{number}" for number in range(600)], 600 if is_whole else 16)
        end_s = world.run()
    assert callers.results(1) == [f"result of i{number}" for number in range(600)]
    assert len(world.effects(fx.LoadModel)) == 4
    assert end_s < 250.0
