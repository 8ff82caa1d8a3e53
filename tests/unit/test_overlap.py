"""A worker unpacks the next batch and sends the last one's results while its tool computes."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from snakemake_executor_gpupool.wire.frames import Decoder, Frame, encode
from snakemake_executor_gpupool.worker import channel
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.overlap import MAX_OBJECTS, are_ours
from tests.waiting import eventually


class Keeper:
    """A tool's object: what it keeps, it may change later."""

    def __init__(self) -> None:
        self.buffer: Any = np.zeros((4, 5))
        self.last: Any = None


def fresh_arrays(tool: Keeper) -> list[Any]:
    return [np.zeros(5) for _ in range(3)]


def rows_of_a_fresh_array(tool: Keeper) -> list[Any]:
    return list(np.zeros((4, 5)))


def one_object_twice(tool: Keeper) -> list[Any]:
    row = {"mean": np.zeros(3), "name": ["a"]}
    return [row, row]


def texts_and_numbers(tool: Keeper) -> list[Any]:
    return ["a", 1, 2.5, None, ("x", b"y"), np.float32(1)]


def its_buffer(tool: Keeper) -> list[Any]:
    return [tool.buffer]


def rows_of_its_buffer(tool: Keeper) -> list[Any]:
    return list(tool.buffer)


def rows_of_what_it_keeps(tool: Keeper) -> list[Any]:
    tool.last = np.zeros((4, 5))
    return list(tool.last)


def rows_of_which_it_keeps_one(tool: Keeper) -> list[Any]:
    rows = list(np.zeros((4, 5)))
    tool.last = rows[1]
    return rows


def a_list_that_it_keeps(tool: Keeper) -> list[Any]:
    tool.last = [[1, 2]]
    return list(tool.last)


def a_dict_within_a_tuple_that_it_keeps(tool: Keeper) -> list[Any]:
    tool.last = ({"a": 1},)
    return [tool.last]


def an_array_over_its_bytes(tool: Keeper) -> list[Any]:
    tool.last = bytearray(80)
    return [np.frombuffer(tool.last)]


def objects_of_unknown_kinds(tool: Keeper) -> list[Any]:
    return [Keeper()]


def objects_within_an_array(tool: Keeper) -> list[Any]:
    return [np.array([[1], "a"], dtype=object)]


def too_much(tool: Keeper) -> list[Any]:
    return [list(range(MAX_OBJECTS + 1))]


def ours(make: Callable[[Keeper], list[Any]], tool: Keeper) -> bool:
    """As a worker asks it: each result is held once, the list that was returned is gone."""
    outcomes = [(result, None) for result in make(tool)]
    return are_ours(outcome[0] for outcome in outcomes)


@pytest.mark.parametrize(
    "make", [fresh_arrays, rows_of_a_fresh_array, one_object_twice, texts_and_numbers]
)
def test_results_that_nobody_else_can_change_are_packed_later(make: Any) -> None:
    assert ours(make, Keeper())


@pytest.mark.parametrize(
    "make",
    [
        its_buffer,
        rows_of_its_buffer,
        rows_of_what_it_keeps,
        rows_of_which_it_keeps_one,
        a_list_that_it_keeps,
        a_dict_within_a_tuple_that_it_keeps,
        an_array_over_its_bytes,
        objects_of_unknown_kinds,
        objects_within_an_array,
        too_much,
    ],
)
def test_results_that_the_tool_could_change_are_packed_at_once(make: Any) -> None:
    assert not ours(make, Keeper())


class Ends:
    """Both ends of a channel, the worker's with frames prepared ahead."""

    def __init__(self, prepare: Callable[[Frame], Any]) -> None:
        self.coordinator, theirs = socket.socketpair()
        self.channel = Channel(theirs.detach())
        self.channel.overlap(prepare)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *exception: object) -> None:
        self.coordinator.close()
        assert self.channel._ahead is not None
        self.channel._ahead.thread.join(10.0)
        self.channel._socket.close()

    def send(self, kind: str) -> None:
        self.coordinator.sendall(b"".join(encode({"type": kind})))

    def received(self, count: int) -> list[str]:
        decoder, frames = Decoder(), list[Frame]()
        self.coordinator.settimeout(10.0)
        while len(frames) < count:
            frames += decoder.feed(self.coordinator.recv(65536))
        return [frame.type for frame in frames]


def test_frames_are_prepared_while_an_earlier_one_is_answered() -> None:  # P10
    second = threading.Event()

    def prepare(frame: Frame) -> str:
        if frame.type == "b":
            second.set()
        return f"prepared {frame.type}"

    with Ends(prepare) as ends:
        ends.send("a")
        frame = ends.channel.receive()
        assert frame is not None and (frame.type, ends.channel.prepared) == ("a", "prepared a")
        ends.send("b")
        assert second.wait(10.0), "the answer to a is not there yet"
        assert ends.channel.prepared == "prepared a"
        frame = ends.channel.receive()
        assert frame is not None and (frame.type, ends.channel.prepared) == ("b", "prepared b")


def test_what_is_done_later_is_done_in_turn_and_before_the_end() -> None:
    with Ends(lambda frame: None) as ends:
        begun, may_go = threading.Event(), threading.Event()

        def slow() -> None:
            begun.set()
            may_go.wait(10.0)
            ends.channel.send({"type": "first"})

        ends.channel.later(slow)
        ends.channel.later(lambda: ends.channel.send({"type": "second"}))
        assert begun.wait(10.0), "and the caller has gone on"
        threading.Timer(0.01, may_go.set).start()
        ends.channel.settle()
        ends.channel.send({"type": "third"})
        assert ends.received(3) == ["first", "second", "third"]
        ends.channel.later(lambda: ends.channel.send({"type": "last"}))
        ends.coordinator.shutdown(socket.SHUT_WR)
        assert ends.channel.receive() is None
        assert ends.received(1) == ["last"]


def answered_by(ends: Ends) -> str:
    """Return which thread has given an answer; its end is waited for."""
    threads: list[str] = []
    ends.channel.later(lambda: threads.append(threading.current_thread().name))
    ends.channel.settle()
    return threads[0]


def test_a_quick_answer_is_given_at_once_where_nothing_follows(  # P10
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = threading.current_thread().name, "gpupool-send"
    with Ends(lambda frame: None) as ends:
        monkeypatch.setattr(channel, "QUICK_S", math.inf)
        assert answered_by(ends) == there, "nothing is known of the first one"
        assert answered_by(ends) == here
        monkeypatch.setattr(channel, "QUICK_S", 0.0)
        assert answered_by(ends) == here
        assert answered_by(ends) == there, "the last one has taken a while"
        monkeypatch.setattr(channel, "QUICK_S", math.inf)
        assert answered_by(ends) == there
        ends.send("next")
        assert ends.channel._ahead is not None
        assert eventually(lambda ahead=ends.channel._ahead: not ahead.is_empty)
        assert answered_by(ends) == there, "while the next one is computed"
        assert ends.channel.receive() is not None
        assert answered_by(ends) == here


def test_a_quick_answer_does_not_overtake_one_that_takes_longer() -> None:
    with Ends(lambda frame: None) as ends:
        may_go = threading.Event()

        def slow() -> None:
            may_go.wait(10.0)
            ends.channel.send({"type": "first"})

        ends.channel.later(slow)
        ends.channel._is_quick = True
        ends.channel.later(lambda: ends.channel.send({"type": "second"}))
        may_go.set()
        assert ends.received(2) == ["first", "second"]


def test_garbage_is_an_error_where_it_would_be_received() -> None:
    with Ends(lambda frame: None) as ends:
        ends.coordinator.sendall(b"garbage" * 10)
        with pytest.raises(Exception, match="not a frame"):
            ends.channel.receive()
