"""The link between coordinator and agent: in order, once, whatever the connections do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.hosts.cluster.link import CHUNK_BYTES, Link, LinkBroken


def test_messages_arrive_in_order_and_are_forgotten_when_acknowledged() -> None:
    ours, theirs = Link(), Link()
    for word in (b"a", b"b", b"c"):
        ours.put(word)
    taken = ours.take_unsent()
    assert taken == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert [theirs.accept(number) for number, _ in taken] == [True] * 3
    ours.acknowledged(theirs.received)
    ours.resume(3)
    assert not ours.has_unsent


def test_large_messages_go_one_by_one() -> None:
    link = Link()
    for _ in range(3):
        link.put(b"x" * CHUNK_BYTES)
    assert [number for number, _ in link.take_unsent()] == [1]
    assert [number for number, _ in link.take_unsent()] == [2]


def test_what_got_lost_is_sent_again_and_what_arrived_twice_is_dropped() -> None:
    ours, theirs = Link(), Link()
    for word in (b"a", b"b", b"c"):
        ours.put(word)
    for number, _ in ours.take_unsent()[:2]:
        theirs.accept(number)
    ours.resume(1)  # the acknowledgement of the second message was lost, too
    again = ours.take_unsent()
    assert [number for number, _ in again] == [2, 3]
    assert [theirs.accept(number) for number, _ in again] == [False, True]


def test_ends_that_do_not_fit_together_say_so() -> None:
    link = Link()
    link.put(b"a")
    with pytest.raises(LinkBroken, match="acknowledged"):
        link.resume(1)  # was never sent
    with pytest.raises(LinkBroken, match="came after"):
        link.accept(2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.booleans()), max_size=30))
def test_any_number_of_breaks_loses_nothing(steps: list[tuple[int, int, bool]]) -> None:
    """At each step some messages are put, some of those in flight arrive, and maybe all breaks."""
    ours, theirs = Link(), Link()
    put: list[bytes] = []
    arrived: list[bytes] = []
    flying: list[tuple[int, bytes]] = []

    def deliver(count: int) -> None:
        for number, message in flying[:count]:
            if theirs.accept(number):
                arrived.append(message)
        del flying[:count]

    for new, lands, breaks in steps:
        for _ in range(new):
            put.append(str(len(put)).encode())
            ours.put(put[-1])
        flying += ours.take_unsent()
        deliver(lands)
        if breaks:
            flying.clear()
            ours.resume(theirs.received)
        elif lands:
            ours.acknowledged(theirs.received)
    flying += ours.take_unsent()
    deliver(len(flying))
    assert arrived == put
