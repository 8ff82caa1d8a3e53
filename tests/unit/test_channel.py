"""How a worker's answers leave it: the first of many soon, the last at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from snakemake_executor_gpupool.wire.frames import Decoder, encode
from snakemake_executor_gpupool.worker.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    """The coordinator's end, which never waits, and a worker's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(theirs.detach())
    with ours, channel._socket:
        yield ours, channel


def come(ours: socket.socket, decoder: Decoder) -> list[int]:
    """Return which answers have come."""
    try:
        return [frame.meta["job"] for frame in decoder.feed(ours.recv(1 << 20))]
    except BlockingIOError:
        return []


@pytest.mark.parametrize("order", [None, [0]])
def test_answers_to_many_renames_are_sent_in_pairs(ends: Any, order: Any) -> None:
    ours, channel = ends
    asked = [{"type": "publish", "job": number, "order": order} for number in range(5)]
    ours.sendall(b"".join(chunk for meta in asked for chunk in encode(meta)))
    decoder, seen = Decoder(), []
    for number in range(5):
        assert channel.receive().meta["job"] == number
        channel.send({"type": "published", "job": number})
        seen.append(come(ours, decoder))
    singly = [[0], [1], [2], [3], [4]]
    assert seen == ([[], [0, 1], [], [2, 3], [4]] if order is None else singly)


def test_an_answer_is_not_kept_for_one_that_may_take_long(ends: Any) -> None:
    ours, channel = ends
    kinds = [("publish", None), ("publish", None), ("publish", [0]), ("write", None)]
    asked = [{"type": kind, "job": job, "order": order} for job, (kind, order) in enumerate(kinds)]
    ours.sendall(b"".join(chunk for meta in asked for chunk in encode(meta)))
    decoder, seen = Decoder(), []
    for number in range(4):
        channel.receive()
        channel.send({"type": "published", "job": number})
        seen.append(come(ours, decoder))
    assert seen == [[], [0, 1], [2], [3]]
