"""Which piece of settled items has a content hash: about twelve bytes for each hash. Pure.

A dict of hashes would take ten times as much: a key, an object for it and the dict's own place.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

#: Bytes of a content hash.
DIGEST_BYTES = 32
#: Stands for no content hash in a row of them.
NO_DIGEST = bytes(DIGEST_BYTES)
#: Into so many buckets digests go at first; and into how many if there are more than so many.
FEW_BUCKETS, MANY_BUCKETS, MANY_DIGESTS = 8192, 65_536, 262_144
#: Of a digest so many bytes stand in its bucket, and as many of its piece's number.
_TAIL_BYTES = 4
_ENTRY_BYTES = 2 * _TAIL_BYTES


class HasDigests(Protocol):
    """A piece, as far as it has digests."""

    number: int

    @property
    def digests(self) -> bytes:
        """One after the other; ``NO_DIGEST`` in a place that is to have none."""


PieceT = TypeVar("PieceT", bound=HasDigests)


class DigestTable(Generic[PieceT]):
    """Finds the piece that has a digest; no two have the same.

    A digest's bucket, which its hash tells, is a row of entries: a digest's last bytes, and the
    number of the piece. Digests with the same last bytes are told apart by looking into the piece.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, PieceT] = {}
        self._numbers = itertools.count()
        self._buckets = [b""] * FEW_BUCKETS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def items(self) -> Iterator[tuple[bytes, PieceT]]:
        """Yield each digest, and its piece."""
        for piece in self._pieces.values():
            yield from ((digest, piece) for digest in _held(piece))

    def add(self, piece: PieceT) -> None:
        """Take in a piece's digests, and number it."""
        piece.number = next(self._numbers)
        self._pieces[piece.number] = piece
        self._put(piece)
        self._count += len(_held(piece))
        if self._count > MANY_DIGESTS and len(self._buckets) == FEW_BUCKETS:
            self._buckets = [b""] * MANY_BUCKETS
            for each in self._pieces.values():
                self._put(each)

    def _put(self, piece: PieceT) -> None:
        """Write a piece's digests into their buckets."""
        buckets, most = self._buckets, len(self._buckets) - 1
        number = piece.number.to_bytes(_TAIL_BYTES, "big")
        for digest in _held(piece):
            buckets[hash(digest) & most] += digest[-_TAIL_BYTES:] + number

    def remove(self, piece: PieceT) -> None:
        """Forget a piece and its digests."""
        buckets, most = self._buckets, len(self._buckets) - 1
        number = piece.number.to_bytes(_TAIL_BYTES, "big")
        for digest in _held(piece):
            place = hash(digest) & most
            bucket = buckets[place]
            at = _find(bucket, digest[-_TAIL_BYTES:] + number, _ENTRY_BYTES)
            buckets[place] = bucket[:at] + bucket[at + _ENTRY_BYTES :]
        self._count -= len(_held(piece))
        del self._pieces[piece.number]

    def find_all(self, keys: Sequence[Hashable]) -> dict[int, PieceT]:
        """Return, by the place of each key that is a digest of a piece, that piece."""
        buckets, most = self._buckets, len(self._buckets) - 1
        found: dict[int, PieceT] = {}
        for place, key in enumerate(keys):
            bucket = buckets[hash(key) & most]
            if bucket and isinstance(key, bytes) and key[-_TAIL_BYTES:] in bucket:
                piece = self._look(bucket, key)
                if piece is not None:
                    found[place] = piece
        return found

    def _look(self, bucket: bytes, digest: bytes) -> PieceT | None:
        """Return which of the pieces that a bucket names has a digest; None: none has."""
        tail = digest[-_TAIL_BYTES:]
        at = _find(bucket, tail, _ENTRY_BYTES)
        while at >= 0:
            number = int.from_bytes(bucket[at + _TAIL_BYTES : at + _ENTRY_BYTES], "big")
            if place_of(self._pieces[number].digests, digest) >= 0:
                return self._pieces[number]
            at = _find(bucket, tail, _ENTRY_BYTES, at + _ENTRY_BYTES)
        return None


def _held(piece: HasDigests) -> list[bytes]:
    digests = digests_of(piece.digests)
    if NO_DIGEST not in piece.digests:
        return digests
    return [digest for digest in digests if digest != NO_DIGEST]


def digests_of(row: bytes) -> list[bytes]:
    """Return digests that stand one after the other."""
    return [row[at : at + DIGEST_BYTES] for at in range(0, len(row), DIGEST_BYTES)]


def place_of(row: bytes, digest: bytes) -> int:
    """Return which in a row of digests is this one; -1: none is."""
    at = _find(row, digest, DIGEST_BYTES)
    return at // DIGEST_BYTES if at >= 0 else at


def _find(row: bytes, part: bytes, size: int, start: int = 0) -> int:
    """Return where a part is found in a row of such size, at the start of one; -1: nowhere."""
    at = row.find(part, start)
    while at > 0 and at % size:
        at = row.find(part, at + 1)
    return at
