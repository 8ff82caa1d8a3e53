"""A micro-batch in a worker: bad items, memory, order, what is kept (W2, W6)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.payload import load_payload
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.batch import (
    ERRORS_BYTES,
    Outcome,
    pack_outcomes,
    run_batch,
    within_bounds,
)


class Doubling(Tool):
    """Doubles numbers; raises for those named ``bad``; has memory for so many at once."""

    bad: frozenset[Any] = frozenset()
    most = 100
    calls: list[list[Any]]

    def read(self, job: Job) -> list[Any]:
        return []

    def load(self, device: str) -> None:
        pass

    def run(self, items: list[Any]) -> list[Any]:
        self.calls.append(list(items))
        if len(items) > self.most:
            raise MemoryError("CUDA out of memory")
        if self.bad & set(items):
            raise ValueError(f"cannot double {sorted(self.bad & set(items))}")
        return [2 * item for item in items]

    def write(self, job: Job, results: Sequence[Any]) -> None:
        pass


def tool(**attributes: Any) -> Doubling:
    made = Doubling()
    made.calls = []
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def test_each_item_gets_its_own_result() -> None:
    assert [o.result for o in run_batch(tool(), [3, 1, 2])] == [6, 2, 4]


def test_bad_items_fail_alone_and_the_others_keep_their_places() -> None:  # W2
    outcomes = run_batch(tool(bad=frozenset({4, 7})), list(range(9)))
    results = [None if outcome.error else outcome.result for outcome in outcomes]
    assert results == [0, 2, 4, 6, None, 10, 12, None, 16]
    assert "cannot double [4]" in outcomes[4].error["message"]  # type: ignore[index]
    assert "cannot double [7]" in outcomes[7].error["message"]  # type: ignore[index]
    assert not any(outcome.out_of_memory for outcome in outcomes)


def test_too_large_a_batch_is_halved_until_it_fits_and_that_is_told() -> None:  # W6
    small = tool(most=2)
    outcomes = run_batch(small, list(range(8)))
    assert [outcome.result for outcome in outcomes] == [2 * n for n in range(8)]
    assert all(outcome.out_of_memory for outcome in outcomes)
    assert [len(call) for call in small.calls] == [8, 4, 2, 2, 4, 2, 2]
    (alone,) = run_batch(tool(most=0), [1])
    assert alone.out_of_memory and alone.error is not None


class Store:
    """Notes what is to be kept."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, bytes]] = []

    def keep(self, key: Any, parts: Sequence[Any]) -> None:
        self.kept.append((key, b"".join(parts)))


def packed(outcomes: Sequence[Outcome], keys: Sequence[Any], store: Any) -> tuple[Any, Any]:
    return pack_outcomes(tool(), outcomes, keys, store, Spool([]))


def test_only_results_with_a_key_and_no_error_are_kept() -> None:
    """What has no key may come out differently the next time."""
    store = Store()
    error = {"kind": "tool", "type": "E", "message": "m", "traceback": ""}
    outcomes = [Outcome("a"), Outcome("b"), Outcome(None, error)]
    notes, blobs = packed(outcomes, [("key", "a"), None, ("key", "c")], store)
    assert [key for key, _ in store.kept] == [("key", "a")]
    assert [note["error"] for note in notes] == [None, None, error]
    assert [load_payload(blob) for blob in blobs] == ["a", "b"]


def test_without_a_store_nothing_is_kept() -> None:
    _, blobs = packed([Outcome(1)], [("key",)], None)
    assert [load_payload(blob) for blob in blobs] == [1]


def test_a_result_that_cannot_be_sent_is_its_items_own_fault() -> None:  # W2
    notes, blobs = packed([Outcome(1), Outcome(lambda: 0), Outcome(3)], [None] * 3, None)
    assert [note["error"] is None for note in notes] == [True, False, True]
    assert notes[1]["error"]["kind"] == "input"
    assert [load_payload(blob) for blob in blobs] == [1, 3]


def test_results_without_room_fail_their_items_and_leave_no_file(tmp_path: Path) -> None:
    spool = Spool([str(tmp_path / "gone")])
    large = bytes(1 << 20)
    notes, blobs = pack_outcomes(tool(), [Outcome(large), Outcome(1)], [None] * 2, None, spool)
    assert notes[0]["error"] is not None and notes[1]["error"] is None
    assert [load_payload(blob) for blob in blobs] == [1]
    assert not list(tmp_path.rglob("*.blob"))


def test_of_many_long_errors_the_later_ones_are_short() -> None:
    error = {"kind": "tool", "type": "E", "message": "m" * 1000, "traceback": "t" * 1024**2}
    notes = [{"error": dict(error), "oom": False} for _ in range(6)] + [{"error": None}]
    told = within_bounds(notes)
    assert len(told) == 7 and told[-1] == {"error": None}
    assert told[0]["error"]["traceback"] and not told[-2]["error"]["traceback"]
    assert len(pickle.dumps(told)) < ERRORS_BYTES + 1024**2
