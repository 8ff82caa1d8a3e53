"""Frames between the coordinator and a worker process.

::

    frame = header | meta | body
    header = magic(4) version(u8) pad(3) meta_bytes(u32) body_bytes(u64) crc32(u32)

``meta`` is a JSON object with a ``type``; ``body`` is a run of opaque blobs whose
lengths ``meta["blobs"]`` lists. A blob too large for a pipe, or for a message between
machines, lies in a file of a spool directory of the run instead; its place in
``meta["blobs"]`` is ``[path, bytes, offset, sharers]``.

The coordinator reads only ``meta``: what is in a blob is for workers to pickle and
unpickle. Every length is bounded and the checksum covers header, meta and small
bodies, so that garbage ends in one :class:`FrameError` and never in a hang.

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Union

from snakemake_executor_gpupool.errors import FrameError
from snakemake_executor_gpupool.wire.json_text import json_decoder, json_encoder

_value_of = json_decoder()
_json_of = json_encoder()
MAGIC = b"gpPL"
VERSION = 1
HEADER = struct.Struct(">4sB3xIQI")
MAX_META_BYTES = 64 * 1024**2
MAX_BODY_BYTES = 8 * 1024**3
MAX_FILE_BYTES = 2**63 - 1
#: Bodies up to this size are covered by the checksum; larger ones cost more than they protect.
CHECKED_BODY_BYTES = 1024**2
#: On one machine a larger blob goes through the spool.
SPOOL_BYTES = 256 * 1024


class SpoolFile(NamedTuple):
    """A blob that lies in a file.

    Attributes
    ----------
    offset
        Where in the file it starts.
    sharers
        How many blobs lie in the file: all of one frame.
    """

    path: str
    size_bytes: int
    offset: int = 0
    sharers: int = 1


Blob = Union[bytes, SpoolFile]


class Frame(NamedTuple):
    """One message: its JSON part and its blobs."""

    meta: dict[str, Any]
    blobs: list[Blob]

    @property
    def type(self) -> str:
        """The kind of message."""
        return str(self.meta.get("type", ""))


def encode(meta: dict[str, Any], blobs: Sequence[Blob] = ()) -> list[bytes]:
    """Return a frame as chunks to be written one after the other."""
    inline: Sequence[Any] = blobs
    if are_in_memory(blobs):
        lengths: list[Any] = [*map(len, blobs)]
    else:
        inline = [blob for blob in blobs if not isinstance(blob, SpoolFile)]
        lengths = [list(blob) if isinstance(blob, SpoolFile) else len(blob) for blob in blobs]
    text = _json_of({**meta, "blobs": lengths}).encode()
    body_bytes = sum(map(len, inline))
    if body_bytes <= SPOOL_BYTES:
        inline = [b"".join(inline)]  # one to check, instead of one for each item
    checked = inline if body_bytes <= CHECKED_BODY_BYTES else []
    crc = _checksum(len(text), body_bytes, text, checked)
    head = HEADER.pack(MAGIC, VERSION, len(text), body_bytes, crc)
    if body_bytes <= SPOOL_BYTES:
        return [b"".join([head, text, *inline])]
    return [head + text, *inline]


def are_in_memory(blobs: Iterable[Blob]) -> bool:
    """Tell whether none of the blobs lies in a file; a column is looked at as one."""
    return SpoolFile not in {*map(type, blobs)}


def blob_size(blob: Blob | None) -> int:
    """Return how many bytes a blob takes, in memory or in its file."""
    if blob is None:
        return 0
    return blob.size_bytes if isinstance(blob, SpoolFile) else len(blob)


def blobs_size(blobs: Sequence[Blob]) -> int:
    """Return how many bytes blobs take."""
    return sum(map(len if are_in_memory(blobs) else blob_size, blobs))


def _checksum(meta_bytes: int, body_bytes: int, text: bytes, body: Iterable[Any]) -> int:
    crc = zlib.crc32(text, zlib.crc32(f"{VERSION}:{meta_bytes}:{body_bytes}".encode()))
    for part in body:
        crc = zlib.crc32(part, crc)
    return crc


class Decoder:
    """Turns a stream of bytes, in pieces of any size, into frames.

    Parameters
    ----------
    max_meta_bytes, max_body_bytes
        A frame whose header announces more is refused before any of it is buffered.
    """

    def __init__(
        self, max_meta_bytes: int = MAX_META_BYTES, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._buffer = bytearray()
        self._need = HEADER.size
        self._max_meta_bytes = max_meta_bytes
        self._max_body_bytes = max_body_bytes

    @property
    def wanted_bytes(self) -> int:
        """How many more bytes complete the next header or frame."""
        return max(self._need - len(self._buffer), 1)

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Add bytes; yield every frame that is complete.

        Raises
        ------
        FrameError
            The bytes are not a frame. The stream cannot be used any further.
        """
        self._buffer += data
        while len(self._buffer) >= self._need:
            frame = self._take()
            if frame is not None:
                yield frame

    def _take(self) -> Frame | None:
        magic, version, meta_bytes, body_bytes, crc = HEADER.unpack_from(self._buffer)
        if magic != MAGIC or version != VERSION:
            raise FrameError(f"not a frame: starts with {bytes(self._buffer[:8])!r}")
        if meta_bytes > self._max_meta_bytes or body_bytes > self._max_body_bytes:
            raise FrameError(f"frame too large: {meta_bytes} + {body_bytes} bytes")
        end = HEADER.size + meta_bytes + body_bytes
        if len(self._buffer) < end:
            self._need = end
            return None
        with memoryview(self._buffer) as view:
            text = bytes(view[HEADER.size : HEADER.size + meta_bytes])
            body = bytes(view[HEADER.size + meta_bytes : end])
        del self._buffer[:end]
        self._need = HEADER.size
        checked = [body] if body_bytes <= CHECKED_BODY_BYTES else []
        if _checksum(meta_bytes, body_bytes, text, checked) != crc:
            raise FrameError("frame damaged: its checksum does not match")
        return _parse(text, body)


def _parse(text: bytes, body: bytes) -> Frame:
    try:
        meta = _value_of(text.decode())  # of bytes it would guess the encoding first
        lengths = meta.pop("blobs")
        blobs, used = _split(lengths, body)
    except (
        *(ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(OverflowError, RecursionError),
    ) as error:
        raise FrameError(f"frame with unreadable meta: {error}") from error
    if used != len(body):
        raise FrameError(f"frame body has {len(body)} bytes, its blobs {used}")
    return Frame(meta, blobs)


def _split(lengths: list[Any], body: bytes) -> tuple[list[Blob], int]:
    if {*map(type, lengths)} == {int} and min(lengths) >= 0:
        ends = [*itertools.accumulate(lengths)]
        return [body[end - length : end] for end, length in zip(ends, lengths)], ends[-1]
    blobs: list[Blob] = []
    used = 0
    for length in lengths:
        if isinstance(length, list):
            blobs.append(_spool_file(*length))
        else:
            if not isinstance(length, int) or length < 0:
                raise ValueError(f"blob of length {length!r}")
            blobs.append(body[used : used + length])
            used += length
    return blobs, used


def _spool_file(path: Any, size_bytes: Any, offset: Any, sharers: Any) -> SpoolFile:
    are_numbers = all(type(number) is int for number in (size_bytes, offset, sharers))
    if not isinstance(path, str) or not are_numbers:
        raise ValueError("a blob in a file is a path and three numbers")
    if min(size_bytes, offset) < 0 or size_bytes + offset > MAX_FILE_BYTES or sharers < 1:
        raise ValueError(f"{size_bytes} bytes at {offset} of a file that {sharers} share")
    return SpoolFile(path, size_bytes, offset, sharers)
