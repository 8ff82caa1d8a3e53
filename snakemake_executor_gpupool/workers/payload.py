"""Items and results as blobs: pickles whose large arrays are not copied through them.

::

    small value   one pickle
    large arrays  MAGIC | buffers(u64) | pickle_bytes(u64) | bytes of each buffer(u64)
                  | pickle | buffer | buffer ...           each from a multiple of 64 on

Arrays of a large value lie beside its pickle (PEP 574, out-of-band buffers). They are
written to the spool as they are, and read by mapping the file: one copy on the way there,
none on the way back. Only workers, and callers of the Python API, open payloads.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Sequence
from typing import Any

from snakemake_executor_gpupool.workers.protocol import SPOOL_BYTES, Blob, Spool, SpoolFile

#: The newest that Python 3.9 reads, and the first with buffers out of band.
PICKLE_PROTOCOL = 5
#: No pickle of a protocol in use starts like this.
MAGIC = b"gpupoolB"
COUNT = struct.Struct("<Q")
ALIGNMENT = 64


def save_payload(value: Any, spool: Spool) -> Blob:
    """Return a value as a blob; a large one lies in a file of the spool."""
    return spool.put(pack(value))


def pack(value: Any) -> list[Any]:
    """Return the parts of a value's payload, to be written one after the other."""
    buffers: list[memoryview] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SPOOL_BYTES:
            return True  # into the pickle: not worth a page of its own
        buffers.append(raw)
        return False

    data = pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=keep_out)
    if not buffers:
        return [data]
    sizes = [len(data), *(buffer.nbytes for buffer in buffers)]
    head = MAGIC + b"".join(COUNT.pack(number) for number in [len(buffers), *sizes])
    parts: list[Any] = [head, data, _padding(len(head) + len(data))]
    for buffer in buffers:
        parts += [buffer, _padding(buffer.nbytes)]
    return parts


def _padding(size_bytes: int) -> bytes:
    return b"\0" * (-size_bytes % ALIGNMENT)


def load_payload(blob: Blob) -> Any:
    """Return the value of a blob; its arrays may be changed, and nobody else sees that."""
    return _unpack(_mapped(blob.path)) if isinstance(blob, SpoolFile) else load_bytes(blob)


def load_bytes(data: bytes) -> Any:
    """Return the value of a payload in memory."""
    is_plain = not data.startswith(MAGIC)
    return pickle.loads(data) if is_plain else _unpack(memoryview(bytearray(data)))


def _mapped(path: str) -> memoryview:
    with open(path, "rb") as file:
        try:
            # Copy on write: the file may be another reader's, too.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except OSError:  # a process may have so many mappings and no more
            return memoryview(bytearray(file.read()))


def _unpack(view: memoryview) -> Any:
    if view[: len(MAGIC)] != MAGIC:
        return pickle.loads(view)
    (count,) = COUNT.unpack_from(view, len(MAGIC))
    start = len(MAGIC) + COUNT.size
    data_bytes, *sizes = struct.unpack_from(f"<{count + 1}Q", view, start)
    start += COUNT.size * (count + 1)
    data = view[start : start + data_bytes]
    start = _aligned(start + data_bytes)
    return pickle.loads(data, buffers=_slices(view, start, sizes))


def _slices(view: memoryview, start: int, sizes: Sequence[int]) -> list[memoryview]:
    slices = []
    for size_bytes in sizes:
        slices.append(view[start : start + size_bytes])
        start = _aligned(start + size_bytes)
    return slices


def _aligned(place: int) -> int:
    return place + -place % ALIGNMENT
