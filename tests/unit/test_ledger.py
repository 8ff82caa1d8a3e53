"""One computation per distinct item, and results that are there as long as they are needed."""

from __future__ import annotations

from collections.abc import Hashable

from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile

ERROR = WorkerError("bad", kind="tool", type="ValueError")


def unit(key: Hashable, payload: Blob = b"", result: Blob | None = None) -> WorkItem:
    return WorkItem(key, "g", 1.0, 1, payload, str(key), (0, 1), 0, result=result)


def file(name: str, size_bytes: int = 100) -> SpoolFile:
    return SpoolFile(f"/spool/{name}", size_bytes)


def test_equal_items_are_one_computation_and_every_place_is_told() -> None:  # W1
    ledger = ResultLedger()
    first, is_new = ledger.place(unit("a"), (1,))
    again, is_new_again = ledger.place(unit("a"), (2,))
    assert is_new and not is_new_again and again is first
    assert first.waiters == (1, 2)
    other, is_other = ledger.place(unit("b"), (1,))
    assert is_other and other is not first
    assert (ledger.items, ledger.unique) == (3, 2)


def test_items_of_a_tool_that_is_not_deterministic_are_never_shared() -> None:  # W1
    ledger = ResultLedger()
    first, _ = ledger.place(unit(None), (1,))
    second, is_new = ledger.place(unit(None), (2,))
    assert is_new and second is not first
    ledger.finish(first, file("first"), None)
    ledger.release(first)
    assert ledger.discarded == [file("first")], "nothing of it is kept for others"


def test_a_result_that_is_there_is_handed_out_and_held_while_it_is_needed() -> None:  # W1
    """Its file must not go with the bound, nor with another job's end."""
    ledger = ResultLedger(keep_bytes=150)
    computed, _ = ledger.place(unit("a"), (1,))
    ledger.finish(computed, file("a"), None)
    ledger.release(computed)  # job 1 has ended: it is kept
    taken, is_new = ledger.place(unit("a"), (2,))
    assert not is_new and taken.result == file("a") and 2 not in taken.waiters
    for number in range(3):  # others push it out of what is kept
        more, _ = ledger.place(unit(number), (3,))
        ledger.finish(more, file(str(number)), None)
        ledger.release(more)
    assert file("a") not in ledger.discarded, "job 2 reads it still"
    ledger.release(taken)
    more, _ = ledger.place(unit("last"), (4,))
    ledger.finish(more, file("last"), None)
    ledger.release(more)
    assert ledger.discarded.count(file("a")) == 1


def test_each_place_holds_a_result_by_itself() -> None:
    ledger = ResultLedger(keep_bytes=0)
    shared, _ = ledger.place(unit("a"), (1,))
    ledger.place(unit("a"), (2,))
    ledger.finish(shared, file("a"), None)
    ledger.release(shared)
    assert ledger.discarded == []
    ledger.release(shared)
    assert ledger.discarded == [file("a")]


def test_what_failed_is_computed_again_for_whoever_asks_again() -> None:  # W2
    ledger = ResultLedger()
    failed, _ = ledger.place(unit("a", file("item")), (1,))
    ledger.finish(failed, None, ERROR)
    assert ledger.discarded == [file("item")]
    retried, is_new = ledger.place(unit("a"), (1,))
    assert is_new and retried is not failed and retried.error is None


def test_the_item_of_a_duplicate_goes_and_that_of_the_first_stays() -> None:
    ledger = ResultLedger()
    ledger.place(unit("a", file("first")), (1,))
    ledger.place(unit("a", file("second"), file("an earlier run's")), (2,))
    assert ledger.discarded == [file("second"), file("an earlier run's")]


def test_what_an_earlier_run_left_is_no_computation() -> None:
    ledger = ResultLedger()
    known, is_new = ledger.place(unit("a", result=file("kept")), (1,))
    assert not is_new and known.waiters == () and ledger.reused == 1 and ledger.unique == 0


def test_the_longest_unused_results_go_first() -> None:
    ledger = ResultLedger(keep_bytes=250)
    for name in ("a", "b"):
        made, _ = ledger.place(unit(name), (1,))
        ledger.finish(made, file(name), None)
        ledger.release(made)
    used, _ = ledger.place(unit("a"), (2,))
    ledger.release(used)
    made, _ = ledger.place(unit("c"), (3,))
    ledger.finish(made, file("c"), None)
    ledger.release(made)
    assert ledger.discarded == [file("b")]


def test_a_job_lets_go_of_all_its_results_at_once_and_only_the_newest_stay() -> None:
    ledger = ResultLedger(keep_bytes=250)
    placed, new = ledger.place_all([unit(name) for name in "abcb"], (1,))
    ledger.finish_all(new, [file(item.name) for item in new])
    ledger.release(*placed)
    assert ledger.discarded == [file("a")], "the bound holds for two; what came twice counts once"
    again, new = ledger.place_all([unit(name) for name in "bd"], (2,))
    ledger.finish_all(new, [file("d")])
    ledger.release(*again)
    assert ledger.discarded == [file("a"), file("c")], "what was used again goes last"


def test_a_result_before_its_time_is_counted_when_it_is_asked_for() -> None:
    ledger = ResultLedger()
    ledger.offer("a", file("guess"))
    ledger.offer("a", file("once more"))
    assert ledger.discarded == [file("once more")] and (ledger.guesses, ledger.unique) == (1, 0)
    taken, is_new = ledger.place(unit("a"), (1,))
    assert not is_new and taken.result == file("guess")
    assert (ledger.claimed, ledger.unique, ledger.computed) == (1, 1, 1)


def test_what_is_held_for_a_job_to_come_stays_until_it_is_released() -> None:  # M1
    ledger = ResultLedger(keep_most=1)
    held = ledger.hold("a", file("guess"))
    again = ledger.hold("a", file("once more"))
    assert again is held and held.holders == 2 and ledger.discarded == [file("once more")]
    ledger.release(held)
    ledger.offer("b", file("b"))
    ledger.offer("c", file("c"))
    assert file("guess") not in ledger.discarded
    assert ledger.place(unit("a"), (1,))[0] is held
    ledger.release(held, held)
    ledger.offer("d", file("d"))
    assert file("guess") in ledger.discarded


def test_what_is_computed_elsewhere_too_is_held_apart() -> None:  # M1
    ledger = ResultLedger()
    waiting, _ = ledger.place(unit("a"), (1,))
    held = ledger.hold("a", file("own"))
    assert held is not waiting and not waiting.is_done and held.result == file("own")
    ledger.release(held)
    assert ledger.discarded == [file("own")]
    assert ledger.place(unit("a"), (2,))[0] is waiting


def test_an_item_nobody_waits_for_any_more_is_new_again() -> None:
    ledger = ResultLedger()
    left, _ = ledger.place(unit("a", file("item")), (1,))
    ledger.abandon(left)
    assert ledger.discarded == [file("item")]
    assert ledger.place(unit("a"), (2,))[1]
