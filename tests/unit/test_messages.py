"""Frames of workers as values: what has its kind's fields, whole and within bounds, or nothing."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.testing.world_options import INFO
from snakemake_executor_gpupool.wire import messages as wire
from snakemake_executor_gpupool.wire.described import ERROR_KINDS, WorkerError
from snakemake_executor_gpupool.wire.fields import (
    are_costs,
    are_tokens,
    is_tokens,
    list_of,
)
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.messages import MESSAGES, ItemsRead, message_of
from snakemake_executor_gpupool.wire.model_messages import BatchDone, StageDone
from tests.unit.fuzzing import cases

ERROR = {"kind": "tool", "type": "ValueError", "message": "bad", "traceback": "Traceback"}
MODEL = {"model": "m", "model_label": "M", "group": "g", "short_tokens": 8}
STAGED = {"chain": 0, "keys": ["k"], "items": 2, "digests": ["d"], "bytes": 7}
UNWRITTEN = {**STAGED, "outputs": [], "logs": [], "order": [0, 0], "names": ["a", "b"]}
#: One sound frame of each kind, with each of its fields.
SOUND: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "tool": ({"info": INFO, "seconds": 0.5, "versions": {"python": "3.12"}}, []),
    "tool_failed": ({"error": ERROR}, []),
    "store_trouble": ({"kind": "damaged", "why": "x"}, []),
    "printed": ({"doing": "run", "about": 7, "start": 0, "end": 9}, []),
    "items": (
        {
            **MODEL,
            "job": 1,
            "keys": ["a", "b"],
            "costs": [1.5, 2],
            "tokens": [3, 4],
            "names": ["A", "B"],
            "kept": [1],
            "last": True,
            "follow": [{**MODEL, "info": INFO}],
        },
        [b"1", b"2"],
    ),
    "checked": ({"holds": True}, []),
    "foreseen": (
        {
            **MODEL,
            "job": 1,
            "batch_tokens": 8,
            "keys": ["a", "b"],
            "costs": [1.5, 2],
            "tokens": [3, 4],
            "kept": 1,
            "count": 3,
            "whole": True,
        },
        [],
    ),
    "unforeseen": ({"job": 1, "error": ERROR}, []),
    "remark": ({"job": 1, "text": "x"}, []),
    "read_failed": ({"job": 1, "error": ERROR}, []),
    "written": ({"job": 1, "seconds": 0.5}, []),
    "write_failed": ({"job": 1, "error": ERROR}, []),
    "published": ({"job": 1, "seconds": 0.5}, []),
    "unpublished": ({"job": 1}, []),
    "loaded": (
        {"batch_tokens": 8, "quick_tokens": 32, "seconds": 0.5, "peak_mib": 3, "versions": {}},
        [],
    ),
    "load_failed": ({"error": ERROR}, []),
    "moved": ({"away": True}, []),
    "move_failed": ({"error": ERROR}, []),
    "done": (
        {
            "batch": 1,
            "items": 3,
            "failed": [1],
            "errors": [ERROR],
            "out_of_memory": [1, 2],
            "seconds": 0.5,
            "peak_mib": None,
        },
        [b"1", b"3"],
    ),
    "stage": (
        {
            "batch": 1,
            "stage": 0,
            "last": False,
            "chains": [{**STAGED, "outputs": ["v/out"], "logs": []}],
            "seconds": 0.5,
            "peak_mib": None,
        },
        [b"1"],
    ),
}


def frame(kind: str, changes: dict[str, Any] | None = None) -> Frame:
    fields, blobs = SOUND[kind]
    meta = json.loads(json.dumps({"type": kind, **fields}))
    return Frame({**meta, **(changes or {})}, [*blobs])


def test_every_kind_is_tried() -> None:
    assert set(SOUND) == set(MESSAGES)
    assert set(get_args(wire.Message)) == set(MESSAGES.values())


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_frame_is_a_value(kind: str) -> None:  # W1
    message = message_of(frame(kind))
    assert type(message) is MESSAGES[kind]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, dataclasses.fields(message)[0].name, 2)
    assert not hasattr(message, "__dict__")


def test_what_all_items_have_in_common_may_be_said_once() -> None:  # W1
    message = message_of(frame("items", {"costs": 2, "tokens": 3}))
    assert isinstance(message, wire.ItemsRead)
    assert (message.costs, message.tokens) == ((2, 2), (3, 3))


@pytest.mark.parametrize("kind", SOUND)
def test_a_field_too_few_or_too_many_is_refused(kind: str) -> None:  # W1
    """Also in an object inside a frame: what nobody reads is sent for nothing, or by a mistake."""
    whole = frame(kind)
    for number, each in enumerate([whole.meta, *inner_objects(whole.meta)]):
        for name in each:
            one_less = copy.deepcopy(whole)
            del [one_less.meta, *inner_objects(one_less.meta)][number][name]
            with pytest.raises(ProtocolError):
                message_of(one_less)
        one_more = copy.deepcopy(whole)
        [one_more.meta, *inner_objects(one_more.meta)][number]["surprise"] = 1
        with pytest.raises(ProtocolError, match="fields that nobody knows"):
            message_of(one_more)


def inner_objects(value: Any) -> list[dict[str, Any]]:
    """Every object inside a JSON value, but those whose names are anybody's."""
    if isinstance(value, dict):
        parts = [part for name, part in value.items() if name != "versions"]
    else:
        parts = value if isinstance(value, list) else []
    found = [part for part in parts if isinstance(part, dict)]
    return found + [deeper for part in parts for deeper in inner_objects(part)]


@pytest.mark.parametrize("kind", SOUND)
def test_a_blob_too_many_is_refused(kind: str) -> None:  # W1
    whole = frame(kind)
    with pytest.raises(ProtocolError, match="blobs instead of"):
        message_of(Frame(whole.meta, [*whole.blobs, b""]))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("items", {"keys": ["a"]}, r"columns of an 'items' frame have \[1, 2, 2, 2\]"),
        ("items", {"costs": [1.0]}, "columns"),
        ("items", {"tokens": [1, 2, 3]}, "columns"),
        ("items", {"names": []}, "columns"),
        ("items", {"kept": [2]}, "'kept' of an 'items' frame names more than 2 items"),
        ("items", {"kept": [1, 1]}, "'kept' of a 'items' frame is"),
        ("items", {"kept": [-1]}, "'kept'"),
        ("items", {"kept": [0.0]}, "'kept'"),
        ("items", {"keys": ["a", 1]}, "'keys'"),
        ("items", {"costs": [1.0, True]}, "'costs'"),
        ("items", {"costs": {"0": 1.0}}, "'costs'"),
        ("items", {"costs": True}, "'costs'"),
        ("items", {"costs": -1.0}, "'costs'"),
        ("items", {"costs": None}, "'costs'"),
        ("items", {"tokens": 1.0}, "'tokens'"),
        ("items", {"tokens": 10**13}, "'tokens'"),
        ("items", {"tokens": [1, 1.0]}, "'tokens'"),
        ("items", {"follow": {}}, "'follow'"),
        ("items", {"follow": [1]}, "'follow' of a 'items' frame is 1"),
        ("checked", {"holds": 1}, "'holds'"),
        ("foreseen", {"keys": ["a"]}, r"a 'foreseen' frame has \[1, 2, 2\] of 3 items"),
        ("foreseen", {"count": 1}, r"\[2, 2, 2\] of 1 items"),
        ("foreseen", {"kept": 3}, "of 3 items"),
        ("foreseen", {"batch_tokens": 0}, "'batch_tokens'"),
        ("unforeseen", {"error": "x"}, "'error' of a"),
        ("done", {"failed": []}, "'errors' of a 'done' frame with 3 items are 1"),
        ("done", {"failed": [3]}, "'errors' of a 'done' frame with 3 items"),
        ("done", {"failed": [1, 0], "errors": [ERROR, ERROR]}, "'failed'"),
        ("done", {"out_of_memory": [3]}, "memory was not enough for"),
        ("done", {"items": 10**10}, "'items'"),
        ("done", {"items": 4}, "2 blobs instead of 3"),
        ("done", {"errors": [{**ERROR, "kind": "odd"}]}, "'kind' of 'errors' of a 'done' frame"),
        ("tool", {"versions": {"a": 1}}, "'versions'"),
        ("tool", {"versions": {"a": "x" * 101}}, "'versions'"),
        ("loaded", {"quick_tokens": -1}, "'quick_tokens'"),
        ("loaded", {"versions": {str(n): "" for n in range(21)}}, "'versions'"),
        ("tool", {"info": []}, "'info' of a 'tool' frame is"),
        ("stage", {"chains": [{**STAGED, "outputs": ["../x"], "logs": []}]}, "'outputs'"),
        ("stage", {"chains": [{**STAGED, "outputs": [], "logs": ["/x"]}]}, "'logs'"),
        ("stage", {"chains": [{**UNWRITTEN, "order": [0]}]}, "1 places and 2 names of 2"),
        ("stage", {"chains": [{**UNWRITTEN, "names": ["a"]}]}, "2 places and 1 names of 2"),
        ("stage", {"chains": [{**UNWRITTEN, "order": [0, 1]}]}, "'order' names 2 of 1 keys"),
        ("stage", {"chains": [{**UNWRITTEN, "order": [0, -1]}]}, "'order'"),
        ("stage", {"chains": [], "computed": [-1]}, "'computed'"),
        ("stage", {"chains": [], "computed": [0, 1]}, "1 blobs instead of 2"),
        ("store_trouble", {"kind": ["damaged"]}, "'kind'"),
        ("printed", {"doing": "sleep"}, "'doing'"),
        ("printed", {"start": 9}, "its end before its start"),
        ("printed", {"start": -1}, "'start'"),
        ("moved", {"type": 7}, "there is no '7' frame"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    kind: str, changes: dict[str, Any], said: str
) -> None:  # W1
    with pytest.raises(ProtocolError, match=said):
        message_of(frame(kind, changes))


def test_what_is_read_is_what_was_written() -> None:
    items = message_of(frame("items"))
    assert isinstance(items, ItemsRead)
    columns = items.keys, items.costs, items.tokens, items.names, items.payloads
    assert columns == (("a", "b"), (1.5, 2), (3, 4), ("A", "B"), (b"1", b"2"))
    assert (items.kept, items.is_last, items.job_id) == ({1}, True, 1)
    assert items.following[0].info.devices == ("cuda", "cpu")
    done = message_of(frame("done"))
    assert isinstance(done, BatchDone)
    error = WorkerError("bad", kind="tool", type="ValueError", traceback="Traceback")
    assert (done.errors, done.out_of_memory, done.results) == ({1: error}, {1, 2}, (b"1", b"3"))
    stage = message_of(frame("stage"))
    assert isinstance(stage, StageDone)
    assert (stage.requests[0].outputs, stage.requests[0].size_bytes) == (("v/out",), 7)
    assert stage.requests[0].order is None
    later = message_of(frame("stage", {"chains": [UNWRITTEN]}))
    assert isinstance(later, StageDone)
    assert (later.requests[0].order, later.requests[0].names) == ((0, 0), ("a", "b"))
    alone = message_of(frame("stage", {"chains": [], "computed": [3], "last": True}))
    assert isinstance(alone, StageDone)
    assert (alone.computed, alone.results, stage.computed) == ((3,), (b"1",), None)


ODD = st.sampled_from([0, 1, 10**12, 10**12 + 1, -1, 1e-18, 5e-324, 1e18, 1e19, 0.5, True, None])
NUMBERS = ODD | st.integers() | st.floats() | st.text(max_size=2)


def is_cost(value: Any) -> bool:
    """Whether it may be added, multiplied and divided by: neither too large nor too close to 0."""
    return type(value) in (int, float) and (value == 0 or 1e-18 <= value <= 1e18)


@cases(by_default=300)
@given(st.lists(NUMBERS, max_size=4) | NUMBERS)
def test_a_column_is_checked_as_its_entries_one_by_one(column: Any) -> None:  # W5
    assert are_costs(column) == list_of(is_cost)(column)
    assert are_tokens(column) == list_of(is_tokens)(column)


def test_an_error_says_whose_it_is() -> None:
    kinds = {kind: WorkerError("x", kind=kind) for kind in ERROR_KINDS}
    assert {kind for kind, error in kinds.items() if error.is_plain} == {"input", "contract"}
    assert {kind for kind, error in kinds.items() if error.is_of_contract} == {"contract"}
    assert WorkerError("x", traceback="t").brief() == WorkerError("x")
