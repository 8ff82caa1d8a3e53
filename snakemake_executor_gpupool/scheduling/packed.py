"""Items of large jobs before and after they are work: columns instead of an object each. Pure.

Of a large job only some items at a time are work items, which can be suspected, shared or put in a
batch. The others wait packed, as they were read; and of those that are done results stay, packed
again::

    read ──► PackedItems ──► WorkItem, at most MAX_OPEN of a job without a result ──► SettledItems
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.messages import ItemsRead

#: So many items of a job are work at a time; more are there, packed, before they are needed. Each
#: of a model's workers finds more than it takes in one micro-batch.
MAX_OPEN = 16_384
#: So many items are packed and unpacked at once; as many as a frame of a file process has.
PIECE_ITEMS = 500
#: So many items of a call come first, and so many at a time after them.
CALL_FIRST, CALL_ITEMS = 4096, 2000
#: So many of them are work for each worker that has a part in it, or as many as it takes in so many
#: micro-batches, and as many more: the caller has the others.
CALL_OPEN, CALL_BATCHES = 2048, 4
#: Characters of a key that is the hash of an item's content.
DIGEST_TEXT = 64


@dataclass(slots=True)
class Later:
    """Items of a large job that are not work yet.

    Attributes
    ----------
    packed_cost
        Of those that wait packed.
    to_come, mean_cost
        Of a call: how many items its caller has still to bring, and what each costs about.
    """

    packed_cost: float = 0.0
    to_come: int = 0
    mean_cost: float = 0.0

    @property
    def cost(self) -> float:
        """Estimate the cost of all of them."""
        return self.packed_cost + self.to_come * self.mean_cost

    def clear(self) -> None:
        """There are none any longer."""
        self.packed_cost, self.to_come = 0.0, 0


class PackedItems:
    """Some items of a job as they were read, in fewer bytes. Immutable."""

    __slots__ = ("_costs", "_head", "_keys", "_names", "_payloads", "_sizes", "_tokens", "count")

    def __init__(self, message: ItemsRead) -> None:
        self.count = len(message.keys)
        self._head = replace(message, keys=(), costs=(), tokens=(), names=(), payloads=())
        self._keys = packed_keys(message.keys)
        self._names = packed_texts(message.names)
        self._costs, self._tokens = array("d", message.costs), array("q", message.tokens)
        self._payloads, self._sizes = packed_blobs(message.payloads)

    @property
    def cost(self) -> float:
        """Sum of the items' costs."""
        return sum(self._costs)

    def unpack(self) -> ItemsRead:
        """Return what was read."""
        return replace(
            self._head,
            keys=unpacked_keys(self._keys),
            costs=tuple(self._costs),
            tokens=tuple(self._tokens),
            names=unpacked_texts(self._names),
            payloads=tuple(unpacked_blobs(self._payloads, self._sizes)),
        )

    def payloads(self) -> Iterator[Blob]:
        """Yield the packed items that may lie in files."""
        return iter(()) if isinstance(self._payloads, bytes) else iter(self._payloads)


def pieces_of(message: ItemsRead) -> Iterator[ItemsRead]:
    """Divide what was read into pieces; only the last one of a last message is the last."""
    count = len(message.keys)
    if count <= PIECE_ITEMS:
        yield message
        return
    kept = sorted(message.kept)
    for start in range(0, count, PIECE_ITEMS):
        end = min(start + PIECE_ITEMS, count)
        mine = kept[bisect_left(kept, start) : bisect_left(kept, end)]
        yield replace(
            message,
            keys=message.keys[start:end],
            costs=message.costs[start:end],
            tokens=message.tokens[start:end],
            names=message.names[start:end],
            payloads=message.payloads[start:end],
            kept=frozenset(place - start for place in mine),
            is_last=message.is_last and end == count,
        )


# -- columns ------------------------------------------------------------------------------
def packed_texts(texts: Sequence[str]) -> str | tuple[str, ...]:
    """Return texts as one, if that can be divided again."""
    joined = "\0".join(texts)
    return joined if joined.count("\0") == len(texts) - 1 else tuple(texts)


def unpacked_texts(packed: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return texts that were packed."""
    return tuple(packed.split("\0")) if isinstance(packed, str) else packed


def packed_keys(keys: Sequence[str]) -> bytes | str | tuple[str, ...]:
    """Return keys that are content hashes in half of their bytes, others as texts."""
    joined = "".join(keys)
    if {*map(len, keys)} == {DIGEST_TEXT}:
        try:
            data = bytes.fromhex(joined)
        except ValueError:
            return packed_texts(keys)
        if data.hex() == joined:
            return data
    return packed_texts(keys)


def unpacked_keys(packed: bytes | str | tuple[str, ...]) -> tuple[str, ...]:
    """Return keys that were packed."""
    if not isinstance(packed, bytes):
        return unpacked_texts(packed)
    text = packed.hex()
    return tuple(text[at : at + DIGEST_TEXT] for at in range(0, len(text), DIGEST_TEXT))


def packed_blobs(blobs: Sequence[Blob]) -> tuple[bytes | tuple[Blob, ...], array[int]]:
    """Return blobs in memory as one, with the size of each; others as they are."""
    in_memory = [blob for blob in blobs if type(blob) is bytes]
    if len(in_memory) < len(blobs):
        return tuple(blobs), array("I")
    return b"".join(in_memory), array("I", map(len, in_memory))


def unpacked_blobs(packed: bytes | tuple[Blob, ...], sizes: array[int]) -> Iterator[Blob]:
    """Yield blobs that were packed."""
    if not isinstance(packed, bytes):
        yield from packed
        return
    start = 0
    for size in sizes:
        yield packed[start : start + size]
        start += size
