"""Jobs of many items: only some are objects at a time, the others are columns (P5, P6, W1)."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.models import table
from snakemake_executor_gpupool.scheduling.packed import PackedItems, pieces_of
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.scheduling.settled import split
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.described import ModelInfo
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.messages_out import results_of
from snakemake_executor_gpupool.worker.early_results import EarlyResults

MODEL = ModelInfo("m", "label", "g", 0)
#: What an item may take of the coordinator's memory, before and after it is work.
MAX_BYTES = 250


@contextmanager
def sizes(most_open: int, piece: int) -> Iterator[None]:
    """Make jobs large that are small."""
    with (
        mock.patch.object(packed, "MAX_OPEN", most_open),
        mock.patch.object(packed, "PIECE_ITEMS", piece),
    ):
        yield


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


# -- columns ------------------------------------------------------------------------------
KEYS = st.one_of(st.text(max_size=5), st.integers(0, 9).map(digest), st.just("A" * 64))
BLOBS = st.one_of(
    st.binary(max_size=5), st.builds(SpoolFile, st.sampled_from(["/a", "/b"]), st.integers(0, 9))
)
ROWS = st.lists(
    st.tuples(KEYS, st.floats(0, 9), st.integers(0, 9), st.text(max_size=5), BLOBS), max_size=9
)


@st.composite
def messages(draw: Any) -> ItemsRead:
    rows = draw(ROWS)
    keys, costs, tokens, names, payloads = zip(*rows, strict=True) if rows else [()] * 5
    kept = frozenset(draw(st.sets(st.integers(0, len(rows) - 1)))) if rows else frozenset()
    last = draw(st.booleans())
    return ItemsRead(1, MODEL, keys, costs, tokens, names, payloads, kept, last, (), ("1:" + "a",))


@given(messages())
def test_items_are_unpacked_as_they_were_packed(message: ItemsRead) -> None:
    items = PackedItems(message)
    assert items.unpack() == message and items.count == len(message.keys)
    files = [blob for blob in message.payloads if isinstance(blob, SpoolFile)]
    assert [blob for blob in items.payloads() if isinstance(blob, SpoolFile)] == files


@given(messages(), st.integers(1, 4))
def test_pieces_are_the_whole_in_its_order(message: ItemsRead, piece: int) -> None:
    with sizes(1, piece):
        pieces = list(pieces_of(message))
    for name in ("keys", "costs", "tokens", "names", "payloads"):
        whole = [each for one in pieces for each in getattr(one, name)]
        assert whole == list(getattr(message, name))
    start, kept = 0, set()
    for one in pieces:
        kept |= {start + place for place in one.kept}
        start += len(one.keys)
    assert kept == message.kept
    assert [one.is_last for one in pieces[:-1]] == [False] * (len(pieces) - 1)
    assert pieces[-1].is_last == message.is_last


@given(KEYS, KEYS)
def test_keys_that_differ_stay_different_in_two_parts(one: str, other: str) -> None:
    keys = [("", "m", "g", one), ("", "m", "g", other)]
    assert (split(keys[0]) == split(keys[1])) == (one == other)
    assert split(one) != split(("", "m", "g", one))


# -- jobs ---------------------------------------------------------------------------------
JOBS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(1, 9)), max_size=24),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(
    *(JOBS, st.integers(1, 3), st.integers(1, 20), st.lists(st.floats(0, 8), max_size=2)),
    *(st.booleans(), st.integers(1, 6), st.integers(1, 4)),
)
def test_every_large_job_gets_its_own(
    jobs: list[tuple[list[tuple[str, int]], int]],
    gpus: int,
    budget: int,
    kill_times_s: list[float],
    shares: bool,
    most_open: int,
    piece: int,
) -> None:  # P5 P6 W1 W2 W4
    with sizes(most_open, piece):
        world = World(gpus=gpus, budget_tokens=budget, load_s=0.3, shares=shares)
        for job_id, (items, priority) in enumerate(jobs):
            made = [FakeItem(f"{key}{cost}", cost=cost, tokens=cost) for key, cost in items]

            def submit(job_id: int = job_id, made: Any = made, priority: int = priority) -> None:
                world.submit(job_id, made, priority=priority)

            world.at(job_id * 0.7, submit)
        for time_s in kill_times_s[:1]:
            world.at(time_s, world.kill_first)
        world.run()
    assert world.reports == dict.fromkeys(range(len(jobs)))
    for job_id, (items, _) in enumerate(jobs):
        assert world.results[job_id] == [f"result of {key}{cost}" for key, cost in items]
    if not kill_times_s:
        assert len(world.computed) == len(set(world.computed)), "an item is computed once"
    left = [text for (path, _), text in world.contents.items() if path not in world.removed]
    assert all(text.startswith(b"result") for text in left), "items that nobody needs"


def large(count: int, **options: Any) -> World:
    """A job of so many different items, five of which are work at a time."""
    world = World(budget_tokens=3, **options)
    world.submit(1, [f"i{n}" for n in range(count)])
    return world


def test_only_some_items_of_a_large_job_are_work_at_a_time() -> None:
    with sizes(5, 2):
        world, most = large(40), 0

        def look(*seen: object) -> None:
            nonlocal most
            if world.scheduler.jobs.ids():
                most = max(most, world.scheduler.jobs[1].missing)

        world.on_decided = look
        world.run()
        assert 3 <= most <= 5
    [write] = world.effects(fx.WriteJob)
    assert sum(map(len, write.settled)) >= 36 and len(write.order) <= 4
    assert [name for piece in write.settled for name in piece.names()] + write.names == [
        f"i{n}@{n}" for n in range(40)
    ]
    assert world.notes("job_done")[0]["items"] == 40
    assert world.notes("job_read")[0]["items"] == 40
    [fact] = [f for f in world.effects(fx.Fact) if f.kind == "job"]
    assert fact.fields["items"] == 40 and fact.fields["came"] == {"computed": 40}
    assert world.scheduler.ledger.computed == world.scheduler.ledger.unique == 40


def test_a_later_job_takes_what_a_large_one_has_computed() -> None:  # W1
    with sizes(5, 2):
        world = large(12)
        world.run()
        world.submit(2, ["i3", "new", "i3", "i0"])
        world.run()
    assert world.results[2] == ["result of i3", "result of new", "result of i3", "result of i0"]
    assert sorted(world.computed) == sorted({*(f"i{n}" for n in range(12)), "new"})
    fields = [fact.fields for fact in world.effects(fx.Fact) if fact.kind == "job"]
    assert fields[1]["came"] == {"computed": 1, "duplicate": 3}
    assert fields[1]["duplicate_of"] == [1]


def test_a_duplicate_within_a_large_job_is_told_from_what_was_computed_for_it() -> None:
    with sizes(4, 2):
        world = World(budget_tokens=2)
        world.submit(1, ["a", "b", "c", "d", "e", "f", "a", "b", "a"])
        world.run()
    assert world.results[1] == [f"result of {key}" for key in "abcdefaba"]
    [fact] = [f for f in world.effects(fx.Fact) if f.kind == "job"]
    assert fact.fields["came"] == {"computed": 6, "duplicate": 3}
    assert world.notes("job_done")[0]["duplicates"] == 3
    [write] = world.effects(fx.WriteJob)
    assert write.distinct == 6


def test_a_large_job_of_nothing_but_duplicates_is_columns_all_the_same() -> None:
    """Its items are done when they come: nothing is computed that could make room."""
    with sizes(5, 2):
        world = large(12)
        world.run()
        world.submit(2, [f"i{n % 12}" for n in range(40)])
        world.run()
    assert world.results[2] == [f"result of i{n % 12}" for n in range(40)]
    write = world.effects(fx.WriteJob)[-1]
    assert sum(map(len, write.settled)) >= 34 and len(world.computed) == 12
    assert world.notes("job_done")[1]["duplicates"] == 40


def test_the_very_first_batch_is_not_that_of_a_job_behind_a_large_one() -> None:
    """Nobody can say how soon the large one is done; that it goes first is known."""
    with sizes(5, 2):
        world = World(budget_tokens=3)
        world.submit(1, [f"i{n}" for n in range(12)], priority=1)
        world.submit(2, ["other"])
        world.run()
    assert "other" in world.computed and "other" not in world.batches[0]


def test_duplicates_behind_an_item_that_is_not_done_do_not_become_objects_all_at_once() -> None:
    with sizes(8, 2):
        world, most = World(budget_tokens=1), 0
        keys = [f"i{n}" for n in range(12)]
        world.submit(1, [*keys, *keys * 20])

        def look(*seen: object) -> None:
            nonlocal most
            if world.scheduler.jobs.ids():
                most = max(most, len(world.scheduler.jobs[1].items))

        world.on_decided = look
        world.run()
    assert world.results[1] == [f"result of {key}" for key in keys * 21]
    assert most <= 2 * 8 + 2 and len(world.computed) == 12


def test_one_bad_item_of_a_large_job_fails_it_and_leaves_nothing() -> None:  # W2
    with sizes(5, 2):
        world = large(30, bad={"i20"}, shares=True)
        world.submit(2, ["i1", "other"])
        world.run()
    assert "item i20@20" in str(world.reports[1]) and world.reports[2] is None
    assert world.results[2] == ["result of i1", "result of other"]
    left = [text for (path, _), text in world.contents.items() if path not in world.removed]
    assert all(text.startswith(b"result") for text in left), "items that nobody needs"


def test_results_in_files_stay_as_they_are() -> None:
    with sizes(5, 2):
        world = large(20, shares=True)
        world.run()
    [write] = world.effects(fx.WriteJob)
    assert not write.settled and len(write.order) == 20


def test_a_large_job_can_be_cancelled_at_any_time() -> None:
    for at_s in (0.2, 1.0, 3.0, 6.0):
        with sizes(5, 2):
            world = large(30)
            world.at(at_s, lambda world=world: world.scheduler.cancel("stopped"))
            world.run()
        assert list(world.reports) == [1]


# -- in the process that writes --------------------------------------------------------------
def part(job_id: int, *values: Any) -> Frame:
    return results_of(job_id, [f"item {each}" for each in values], map(pickle.dumps, values))


def test_results_come_piece_by_piece_and_each_job_gets_its_own() -> None:
    early = EarlyResults()
    early.take(part(1, "left", "over"))  # of a job that was not written after all
    early.take(part(2, "a"))
    early.take(part(2, "b", ["c"]))
    assert early.of(2, 3) == (["item a", "item b", "item ['c']"], ["a", "b", ["c"]])
    assert early.of(2, 0) == ([], []), "they are handed out once"
    assert early.of(3, 0) == ([], [])


@pytest.mark.parametrize(("job_id", "count"), [(1, 1), (1, 3), (2, 2)])
def test_a_job_is_not_written_with_others_results_or_too_few(job_id: int, count: int) -> None:
    early = EarlyResults()
    early.take(part(1, "a", "b"))
    with pytest.raises(ProtocolError, match="came before the last"):
        early.of(job_id, count)
    early.take(part(2, "c"))
    assert early.of(2, 1) == (["item c"], ["c"])


def test_a_result_that_cannot_be_unpacked_fails_its_job_when_it_is_written() -> None:
    early = EarlyResults()
    early.take(results_of(1, ["x"], [b"no pickle"]))
    early.take(part(1, "a"))
    with pytest.raises(pickle.UnpicklingError):
        early.of(1, 2)
    assert early.of(1, 0) == ([], [])


# -- memory -------------------------------------------------------------------------------
def per_item(make: Callable[[], object], items: int) -> float:
    """Return how many bytes of memory an item takes of what is made."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = make()
        taken = tracemalloc.get_traced_memory()[0] - before
        del made
    finally:
        tracemalloc.stop()
    return taken / items


def read(piece: int, count: int = 500) -> ItemsRead:
    """A frame as a file process sends it of short texts."""
    numbers = range(piece * count, (piece + 1) * count)
    payloads: tuple[Blob, ...] = tuple(b"item %20d" % number for number in numbers)
    names = tuple(f"#{number}" for number in numbers)
    keys = tuple(map(digest, numbers))
    return ItemsRead(1, MODEL, keys, (1.0,) * count, (1,) * count, names, payloads)


def test_an_item_that_waits_takes_few_bytes() -> None:
    taken = per_item(lambda: [PackedItems(read(piece)) for piece in range(10)], 5000)
    assert 50 < taken <= MAX_BYTES / 2


def test_an_item_that_is_done_takes_few_bytes() -> None:
    ledger = ResultLedger()

    def settle() -> list[object]:
        pieces: list[object] = []
        for number in range(10):
            message = read(number)
            columns = zip(message.keys, message.names, strict=True)
            items = [
                ledger.place(
                    WorkItem(("", "m", "g", key), "g", 1.0, 1, b"x", name, (0, 1), 0), (1,)
                )[0]
                for key, name in columns
            ]
            for item in items:
                ledger.finish(item, b"result %d" % item.arrival, None)
            pieces.append(ledger.settle(items, message.names))
        return pieces

    assert 100 < per_item(settle, 5000) <= MAX_BYTES
    assert not ledger._work_items


def test_what_is_kept_of_large_jobs_is_bounded_and_the_oldest_goes_first() -> None:
    ledger = ResultLedger(keep_bytes=25)
    pieces = []
    for name in "abc":
        item, _ = ledger.place(WorkItem(name, "g", 1.0, 1, b"", name, (0, 1), 0), (1,))
        ledger.finish(item, b"ten bytes.", None)
        pieces.append(ledger.settle([item], [name]))
    for piece in pieces:
        assert piece is not None
        ledger.release_settled(piece)
    found = [ledger.place(WorkItem(n, "g", 1.0, 1, b"", n, (0, 1), 0), (2,))[1] for n in "abc"]
    assert found == [True, False, False]


@pytest.mark.parametrize("is_shared", [True, False])
def test_an_item_that_others_hold_stays_theirs(is_shared: bool) -> None:
    ledger = ResultLedger()
    item, _ = ledger.place(WorkItem("a", "g", 1.0, 1, b"", "a", (0, 1), 0), (1,))
    if is_shared:
        ledger.place(WorkItem("a", "g", 1.0, 1, b"", "a", (0, 1), 0), (2,))
    ledger.finish(item, b"result", None)
    piece = ledger.settle([item], ["a"])
    assert piece is not None and list(piece.results()) == [b"result"]
    assert ("a" in ledger._work_items) == is_shared
    again, is_new = ledger.place(WorkItem("a", "g", 1.0, 1, b"", "a", (0, 1), 0), (3,))
    assert not is_new and again.result == b"result" and (again is item) == is_shared


def test_params_of_items_that_wait_packed_are_known_when_these_become_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another instance's worker computes all that is open of the second job."""
    monkeypatch.setattr(table, "MAX_IDLE", 2)
    world = World(gpus=2, budget_tokens=1)
    with sizes(4, 2):
        both = [f"i{number}" for number in range(8)]
        world.submit(1, both, instance="A")
        world.submit(2, [*both, "own"], instance="B")
        for number in range(3, 7):
            items = [FakeItem(f"x{number}", group=f"g{number}")]
            world.submit(number, items, instance="B")
        world.run()
    assert world.reports == dict.fromkeys(range(1, 7))
