"""Where the results of large jobs are found by their items' keys (P6, W1)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import digest_table
from snakemake_executor_gpupool.scheduling.settled import SettledItems, SettledTable, split

#: Keys of all kinds: hashes, some of which end alike, none at all, and what looks like hashes.
HASHES = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(12)]
ALIKE = [text[:-8] + "0" * 8 for text in HASHES[:6]]
ODD = ["0" * 64, "A" * 64, "ab" * 31 + "xy", "a", ""]
TEXTS = st.sampled_from([*HASHES, *ALIKE, *ODD])
OF_TWO = st.tuples(st.just(""), st.just("m"), st.sampled_from("gh"), TEXTS)
KEYS = st.one_of(OF_TWO, st.sampled_from(["plain", b"bytes", b"\0" * 32, ("a", "b")]))


#: A piece, and the result of each of its own items by what is left of its key.
Piece = tuple[SettledItems, dict[Hashable, bytes]]


def piece_of(head: Hashable, rests: list[Hashable | None], number: int) -> Piece:
    """A piece whose results say which of it they are."""
    count = len(rests)
    results = [b"%d.%d" % (number, place) for place in range(count)]
    figures = [1] * count, [2] * count, [0.5] * count
    own = {rest: each for rest, each in zip(rests, results, strict=True) if rest is not None}
    return SettledItems(["n"] * count, results, head, rests, *figures), own


def pieces_of(keys: list[Hashable], chance: random.Random) -> list[Piece]:
    """Divide keys into pieces, in which others stand that are to be found elsewhere."""
    by_head: dict[Hashable, list[Hashable | None]] = {}
    for head, rest in map(split, keys):
        by_head.setdefault(head, []).extend([rest] + [None] * chance.randrange(2))
    pieces: list[Piece] = []
    for head, rests in by_head.items():
        while rests:
            size = chance.randint(1, 4)
            pieces.append(piece_of(head, rests[:size], len(pieces)))
            del rests[:size]
    chance.shuffle(pieces)
    return pieces


@settings(max_examples=200, deadline=None)
@given(
    st.lists(KEYS, unique=True, max_size=25),
    st.lists(KEYS, max_size=12),
    st.sampled_from([1, 4]),
    st.randoms(use_true_random=False),
)
def test_what_is_settled_is_found_by_its_key_and_nothing_else_is(
    keys: list[Hashable], asked: list[Hashable], buckets: int, chance: random.Random
) -> None:  # W1
    """Beside a dict, with so few buckets that entries stand in each other's way."""
    few = {"FEW_BUCKETS": buckets, "MANY_BUCKETS": 16, "MANY_DIGESTS": 2}
    with mock.patch.multiple(digest_table, **few):
        table, expected = SettledTable(), dict[Hashable, tuple[SettledItems, bytes]]()
        there: list[SettledItems] = []
        for piece, results in pieces_of(keys, chance):
            table.add(piece)
            there.append(piece)
            assert {*piece.rests()} == results.keys()
            expected |= {(piece.head, rest): (piece, result) for rest, result in results.items()}
            if chance.random() < 0.3:
                gone = there.pop(chance.randrange(len(there)))
                table.remove(gone)
                expected = {key: each for key, each in expected.items() if each[0] is not gone}
            found = table.find_all(asked)
            for place, key in enumerate(asked):
                known = expected.get(split(key))
                assert found.get(place) is table.find(split(key)) is (known and known[0])
                if known is not None:
                    assert known[0].row(split(key)[1]).result == known[1]
            assert dict(table.items()) == {key: each[0] for key, each in expected.items()}
            assert len(table) == len(expected)
        for piece in there:
            table.remove(piece)
        assert len(table) == 0 and not table._pieces


def test_a_key_that_looks_like_no_hash_in_a_row_of_hashes_is_found_as_any_other() -> None:
    texts = [HASHES[0], "0" * 64, HASHES[1]]
    keys: list[Hashable] = [("", "m", "g", text) for text in texts]
    table = SettledTable()
    hashes, _ = piece_of(("", "m", "g"), [bytes.fromhex(texts[0]), None, None], 1)
    zeros, _ = piece_of(("", "m", "g"), ["0" * 64, None], 2)
    table.add(hashes)
    assert table.find_all(keys) == {0: hashes}
    table.add(zeros)
    assert table.find_all(keys) == {0: hashes, 1: zeros}


def test_a_hash_is_not_found_across_two_that_stand_side_by_side() -> None:
    one, two = (bytes.fromhex(text) for text in HASHES[:2])
    across = one[16:] + two[:16]
    assert digest_table.place_of(one + two, across) == -1
    assert digest_table.place_of(one + two + across, across) == 2
