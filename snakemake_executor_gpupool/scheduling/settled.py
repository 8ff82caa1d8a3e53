"""Results of large jobs: columns that take the place of work items that are done. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from snakemake_executor_gpupool.scheduling.digest_table import (
    NO_DIGEST,
    DigestTable,
    digests_of,
    place_of,
)
from snakemake_executor_gpupool.scheduling.packed import (
    DIGEST_TEXT,
    packed_blobs,
    packed_keys,
    packed_texts,
    unpacked_blobs,
    unpacked_texts,
)
from snakemake_executor_gpupool.wire.frames import Blob

#: Results of one piece that together are larger stay the objects that they are: other places may
#: have the same.
MAX_JOINED_BYTES = 64 * 1024
NumberT = TypeVar("NumberT", int, float)
#: What a key starts with, and what is left of it: of a content hash its bytes.
SplitKey = tuple[Hashable, Hashable]


@dataclass(frozen=True, slots=True)
class SettledRow:
    """What is known of one item of a piece.

    Attributes
    ----------
    job_id, batch_id, device_s
        As a work item has them.
    is_held
        The job that the piece is of is still in flight.
    """

    result: Blob
    job_id: int
    batch_id: int
    device_s: float
    is_held: bool


class SettledItems:
    """Results of some items in a row of one job: all are there, and in memory.

    Parameters
    ----------
    head, rests
        What the items' keys start with, and what is left of each; None where others have the
        result, too, and keep it.
    job_ids, batch_ids, device_s
        The job, batch and device seconds of each item.

    Attributes
    ----------
    digests, texts
        What is left of the keys of items whose result is to be found here and nowhere else: all
        are content hashes (:class:`~.digest_table.DigestTable` has how they stand there), or else
        anything, and None where the result is elsewhere.
    number
        The table's, of pieces with digests.
    size_bytes
        Of the results.
    is_held
        The job is still in flight.
    repeats
        How many of the items the job has in another place, too.
    """

    __slots__ = (
        *("_batch_ids", "_count", "_device_s", "_job_ids", "_names", "_results", "_sizes"),
        *("digests", "head", "is_held", "number", "repeats", "size_bytes", "texts"),
    )

    def __init__(
        self,
        names: Sequence[str],
        results: Sequence[Blob],
        head: Hashable,
        rests: Sequence[Hashable | None],
        job_ids: Sequence[int],
        batch_ids: Sequence[int],
        device_s: Sequence[float],
    ) -> None:
        self.head, self.number, self._count = head, -1, len(rests)
        self.digests, self.texts = _digests_or_texts(rests)
        self.size_bytes = sum(map(len, results))
        self.is_held, self.repeats = True, 0
        self._names = packed_texts(names)
        self._results: bytes | tuple[Blob, ...] = tuple(results)
        self._sizes = array("I")
        if self.size_bytes <= MAX_JOINED_BYTES:
            self._results, self._sizes = packed_blobs(results)
        self._job_ids, self._batch_ids = array("q", _once(job_ids)), array("q", _once(batch_ids))
        self._device_s = array("d", _once(device_s))

    def __len__(self) -> int:
        return self._count

    def rests(self) -> list[Hashable]:
        """Return what is left of the keys of items whose result is here and nowhere else."""
        texts = [text for text in self.texts if text is not None]
        return [*texts, *[each for each in digests_of(self.digests) if each != NO_DIGEST]]

    def names(self) -> tuple[str, ...]:
        """Return what messages call the items."""
        return unpacked_texts(self._names)

    def results(self) -> Iterator[Blob]:
        """Yield the packed result of each item."""
        return unpacked_blobs(self._results, self._sizes)

    def row(self, rest: Hashable) -> SettledRow:
        """Return what is known of the item whose key ends so."""
        if self.digests:
            place = place_of(self.digests, cast("bytes", rest))
        else:
            place = self.texts.index(rest)
        if isinstance(self._results, bytes):
            start = sum(self._sizes[:place])
            result: Blob = self._results[start : start + self._sizes[place]]
        else:
            result = self._results[place]
        job_id, batch_id = _at(self._job_ids, place), _at(self._batch_ids, place)
        return SettledRow(result, job_id, batch_id, _at(self._device_s, place), self.is_held)


def _digests_or_texts(
    rests: Sequence[Hashable | None],
) -> tuple[bytes, tuple[Hashable | None, ...]]:
    """Return what is left of keys as one row of digests, if all are; else as it is."""
    kinds = {*map(type, rests)} - {type(None)}
    if kinds != {bytes}:
        return b"", tuple(rests) if kinds else ()
    digests = cast("Sequence[bytes | None]", rests)
    return b"".join([NO_DIGEST if each is None else each for each in digests]), ()


def _once(values: Sequence[NumberT]) -> Sequence[NumberT]:
    """Return numbers; one that all items have, once."""
    return values[:1] if len({*values}) == 1 else values


def _at(column: Sequence[NumberT], place: int) -> NumberT:
    return column[place if len(column) > 1 else 0]


class _Pieces:
    """Pieces whose keys start alike."""

    def __init__(self) -> None:
        self.digests: DigestTable[SettledItems] = DigestTable()
        self.texts: dict[Hashable, SettledItems] = {}

    def __len__(self) -> int:
        return len(self.digests) + len(self.texts)

    def find_all(self, rests: Sequence[Hashable]) -> dict[int, SettledItems]:
        """Return, by the place of what is left of each key that a piece has, that piece."""
        texts, found = self.texts, dict[int, SettledItems]()
        if texts:
            found = {place: texts[rest] for place, rest in enumerate(rests) if rest in texts}
        if len(self.digests):
            found |= self.digests.find_all(rests)
        return found

    def find(self, rest: Hashable) -> SettledItems | None:
        """Return the piece that has a key; None: there is none."""
        piece = self.texts.get(rest)
        return self.digests.find_all([rest]).get(0) if piece is None else piece


class SettledTable:
    """In which piece the result of which item is."""

    def __init__(self) -> None:
        self._pieces: dict[Hashable, _Pieces] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def items(self) -> Iterator[tuple[SplitKey, SettledItems]]:
        """Yield each key, and its piece."""
        for head, pieces in self._pieces.items():
            for rest, piece in (*pieces.texts.items(), *pieces.digests.items()):
                yield (head, rest), piece

    def find(self, key: SplitKey) -> SettledItems | None:
        """Return the piece that has a key; None: there is none."""
        pieces = self._pieces.get(key[0])
        return None if pieces is None else pieces.find(key[1])

    def find_all(self, keys: Sequence[Hashable]) -> dict[int, SettledItems]:
        """Return, by the place of each key that a piece has, that piece."""
        parts = split_all(keys) if self._count else None
        if parts is None:
            found = (self.find(split(key)) for key in keys) if self._count else ()
            return {place: piece for place, piece in enumerate(found) if piece is not None}
        pieces = self._pieces.get(parts[0])
        return pieces.find_all(parts[1]) if pieces else {}

    def add(self, piece: SettledItems) -> None:
        """Take in the keys of a piece."""
        if not piece.digests and not piece.texts:
            return
        pieces = self._pieces.setdefault(piece.head, _Pieces())
        before = len(pieces)
        if piece.digests:
            pieces.digests.add(piece)
        pieces.texts.update({text: piece for text in piece.texts if text is not None})
        self._count += len(pieces) - before

    def remove(self, piece: SettledItems) -> None:
        """Forget them."""
        if not piece.digests and not piece.texts:
            return
        pieces = self._pieces[piece.head]
        before = len(pieces)
        if piece.digests:
            pieces.digests.remove(piece)
        for text in piece.texts:
            if text is not None:
                del pieces.texts[text]
        self._count -= before - len(pieces)
        if not pieces:
            del self._pieces[piece.head]


def split(key: Hashable) -> SplitKey:
    """Return a key in two parts, the first of which many items share.

    The second is bytes for what is the hash of an item's content: that takes half of the memory.
    Different keys stay different.
    """
    if type(key) is not tuple or len(key) != 4 or type(key[3]) is not str:
        return None, (key,)
    return key[:3], short_rest(key[3])


def short_rest(text: str) -> bytes | str:
    """Return an item's own key as bytes, if it is a content hash."""
    if len(text) != DIGEST_TEXT:
        return text
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return text
    return data if data.hex() == text and data != NO_DIGEST else text


def split_all(keys: Sequence[Hashable]) -> tuple[Hashable, Sequence[Hashable]] | None:
    """Return what all keys start with, and what is left of each; None: they start differently."""
    texts = _texts_of(keys)
    if texts is not None:
        return keys[0][:3], _short_rests(texts)  # type: ignore[index]
    parts = [*map(split, keys)]
    if len({head for head, _ in parts}) != 1:
        return None
    return parts[0][0], [rest for _, rest in parts]


def _texts_of(keys: Sequence[Hashable]) -> list[str] | None:
    """Return the last parts of keys that differ in no other; None: they are not of that kind."""
    if {*map(type, keys)} != {tuple}:
        return None
    tuples = cast("Sequence[tuple[str, str, str, str]]", keys)
    if {*map(len, tuples)} != {4}:
        return None
    space, model, group, _ = tuples[0]
    # Keys that were made together have the same objects.
    texts = [text for s, m, g, text in tuples if g is group and m is model and s is space]
    is_one = len(texts) == len(keys) and {*map(type, texts)} == {str}
    return texts if is_one else None


def _short_rests(texts: Sequence[str]) -> Sequence[bytes | str]:
    """Return each of some items' own keys as :func:`short_rest` has it."""
    data = packed_keys(texts)
    if not isinstance(data, bytes) or NO_DIGEST in data:
        return [*map(short_rest, texts)]
    return digests_of(data)
