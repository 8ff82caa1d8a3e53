"""Any mix of duplicates, empties and orders gives each job its own results (P5, P6)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.frames import SpoolFile

JOBS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9)), max_size=6),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(
    JOBS,
    st.integers(1, 3),
    st.integers(1, 20),
    st.lists(st.floats(0, 8), max_size=3),
    st.booleans(),
)
def test_every_job_gets_its_own(
    jobs: list[list[tuple[str, int]]],
    gpus: int,
    budget: int,
    kill_times_s: list[float],
    shares: bool,
) -> None:  # P5 P6 W2 W4
    world = World(gpus=gpus, budget_tokens=budget, load_s=0.3, shares=shares)
    for job_id, items in enumerate(jobs):
        made = [FakeItem(f"{key}{cost}", cost=cost, tokens=cost) for key, cost in items]
        world.at(job_id * 0.7, lambda job_id=job_id, made=made: world.submit(job_id, made))
    for time_s in kill_times_s[:1]:
        world.at(time_s, world.kill_first)
    world.run()
    assert world.reports == dict.fromkeys(range(len(jobs)))
    for job_id, items in enumerate(jobs):
        assert world.results[job_id] == [f"result of {key}{cost}" for key, cost in items]
    if not kill_times_s:
        assert len(world.computed) == len(set(world.computed))
    left = [text for (path, _), text in world.contents.items() if path not in world.removed]
    assert all(text.startswith(b"result") for text in left), "items that nobody needs"


def unit(key: str, payload: bytes = b"item") -> WorkItem:
    return WorkItem(
        key=key, group="g", cost=1, tokens=1, payload=payload, name=key, level=(0, 1), arrival=1
    )


def test_kept_results_are_bounded_and_dropped_oldest_first() -> None:  # P5
    ledger = ResultLedger(keep_bytes=250)
    for number in range(5):
        placed, is_new = ledger.place(unit(f"k{number}"), (number,))
        assert is_new
        ledger.finish(placed, SpoolFile(f"file{number}", 100), None)
        ledger.release(placed)
    assert [blob.path for blob in ledger.discarded] == ["file0", "file1", "file2"]
    assert ledger.place(unit("k4"), (9,))[1] is False
    assert ledger.place(unit("k0"), (9,))[1] is True


def test_a_held_result_outlives_the_bound() -> None:  # P5
    ledger = ResultLedger(keep_bytes=0)
    held, _ = ledger.place(unit("k"), (1,))
    ledger.place(unit("k"), (2,))
    ledger.finish(held, SpoolFile("file", 100), None)
    ledger.release(held)
    assert ledger.discarded == []
    ledger.release(held)
    assert [blob.path for blob in ledger.discarded] == ["file"]


def test_payloads_of_duplicates_are_removed() -> None:
    ledger = ResultLedger()
    ledger.place(unit("k", SpoolFile("first", 1)), (1,))  # type: ignore[arg-type]
    ledger.place(unit("k", SpoolFile("second", 1)), (2,))  # type: ignore[arg-type]
    assert [blob.path for blob in ledger.discarded] == ["second"]


def test_a_result_of_an_earlier_run_is_no_computation() -> None:  # P5
    ledger = ResultLedger()
    found = unit("k")
    found.result = b"kept"
    placed, is_new = ledger.place(found, (1,))
    assert (placed.result, is_new) == (b"kept", False)
    assert (ledger.items, ledger.unique, ledger.reused) == (1, 0, 1)


def test_a_kept_result_that_comes_too_late_is_let_go_of() -> None:  # P5
    ledger = ResultLedger()
    first, _ = ledger.place(unit("k"), (1,))
    late = unit("k")
    late.result = SpoolFile("kept", 1)
    placed, is_new = ledger.place(late, (2,))
    assert (placed, is_new) == (first, False) and first.waiters == (1, 2)
    assert [blob.path for blob in ledger.discarded] == ["kept"]
