"""Items and results as blobs: pickles whose large arrays are not copied through them.

::

    small value   one pickle
    large arrays  MAGIC | buffers(u64) | pickle_bytes(u64) | bytes of each buffer(u64)
                  | pickle | buffer | buffer ...           each from a multiple of 64 on

Arrays of a large value lie beside its pickle (PEP 574, out-of-band buffers). They are
written to the spool as they are, and read by mapping the file: one copy on the way there,
none on the way back. A small blob in a shared file is read, not mapped.
Only workers, and callers of the Python API, open payloads.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile
from snakemake_executor_gpupool.wire.spool import ALIGNMENT

#: The newest protocol that Python 3.9 reads, and the first with out-of-band buffers.
PICKLE_PROTOCOL = 5
#: No pickle starts with these bytes.
MAGIC = b"gpupoolB"
#: Kinds that hold no arrays.
PLAIN = frozenset((str, bytes, int, float, bool, type(None)))
COUNT = struct.Struct("<Q")


class OnDevice(pickle.PicklingError):
    """A tensor outside host memory: the receiving process may not see its device."""


def place_of(value: Any) -> str:
    """Return the device of an array or tensor; empty: host memory, or it is neither."""
    if type(value).__module__.partition(".")[0] == "cupy":
        return "cuda"
    device = getattr(value, "device", None)
    kind = getattr(device, "type", "cpu")
    return str(device) if isinstance(kind, str) and kind != "cpu" else ""


class _TensorPickler(pickle.Pickler):
    """Refuses tensors on a device, and pickles of a view only the part that it shows."""

    def reducer_override(self, value: Any) -> Any:
        if type(value).__module__.partition(".")[0] not in ("torch", "cupy"):
            return NotImplemented
        place = place_of(value) if hasattr(value, "shape") else ""
        if place:
            raise OnDevice(f"a tensor on {place}")
        if type(value).__name__ == "Tensor" and _is_part(value):
            return value.clone().__reduce_ex__(PICKLE_PROTOCOL)
        return NotImplemented


def _is_part(tensor: Any) -> bool:
    """Tell whether a tensor of torch's is a view of a larger one."""
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        return False
    size_bytes = tensor.numel() * tensor.element_size()
    return bool(tensor.untyped_storage().nbytes() > size_bytes)


def _dumps(value: Any, keep_out: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    if "torch" not in sys.modules and "cupy" not in sys.modules:
        return pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=keep_out)
    file = io.BytesIO()
    _TensorPickler(file, PICKLE_PROTOCOL, buffer_callback=keep_out).dump(value)
    return file.getvalue()


def pack(value: Any) -> list[Any]:
    """Return the parts of a value's payload, to be written one after the other.

    Raises
    ------
    OnDevice
        The value contains a tensor that is not in host memory.
    Exception
        The value cannot be pickled for another reason.
    """
    if type(value) in PLAIN:
        return [pickle.dumps(value, PICKLE_PROTOCOL)]
    buffers: list[memoryview] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SPOOL_BYTES:
            return True  # inside the pickle: too small for a page of its own
        buffers.append(raw)
        return False

    data = _dumps(value, keep_out)
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
    """Return the value of a blob; changes of its arrays are private."""
    return load_payloads([blob])[0] if isinstance(blob, SpoolFile) else load_bytes(blob)


def load_payloads(blobs: Iterable[Blob]) -> list[Any]:
    """Return the values of blobs; a file that consecutive blobs share is opened once.

    Raises
    ------
    OSError
        A file cannot be read, or is shorter than it should be.
    """
    values, path, descriptor = [], "", -1
    try:
        for blob in blobs:
            if not isinstance(blob, SpoolFile):
                values.append(load_bytes(blob))
                continue
            if blob.path != path:
                if descriptor >= 0:
                    os.close(descriptor)
                    descriptor = -1
                path, descriptor = blob.path, _open(blob.path)
            values.append(_load_from(descriptor, blob))
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return values


def _open(path: str) -> int:
    """Open a regular file; a pipe in its place is refused, not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def load_places(blobs: Sequence[Blob], order: Sequence[int]) -> list[Any]:
    """Return for each place the value of its blob, loaded for that place alone.

    The values may be changed in place; places of a duplicate share no memory.

    Parameters
    ----------
    blobs
        The distinct ones.
    order
        For each place, the index of its blob.

    Raises
    ------
    OSError
        As :func:`load_payloads`.
    """
    if list(order) == list(range(len(blobs))):  # each its own
        return load_payloads(blobs)
    # In the order of the blobs, so that a shared file is opened once.
    places = sorted(range(len(order)), key=order.__getitem__)
    values = dict(zip(places, load_payloads(blobs[order[place]] for place in places)))
    return [values[place] for place in range(len(order))]


def load_bytes(data: bytes) -> Any:
    """Return the value of a payload in memory."""
    is_plain = not data.startswith(MAGIC)
    return pickle.loads(data) if is_plain else _unpack(memoryview(bytearray(data)))


def _load_from(descriptor: int, blob: SpoolFile) -> Any:
    if blob.size_bytes > SPOOL_BYTES:
        return _unpack(_mapped(descriptor, blob))
    return load_bytes(bytes(_read(descriptor, blob)))


def _mapped(descriptor: int, blob: SpoolFile) -> memoryview:
    before = blob.offset % mmap.ALLOCATIONGRANULARITY
    if os.fstat(descriptor).st_size < blob.offset + blob.size_bytes:
        raise _short(blob)
    try:
        # Copy on write: other readers may map the same file.
        access, start = mmap.ACCESS_COPY, blob.offset - before
        whole = mmap.mmap(descriptor, before + blob.size_bytes, access=access, offset=start)
    except OSError:  # the process has too many mappings
        return memoryview(_read(descriptor, blob))
    return memoryview(whole)[before:]


def _read(descriptor: int, blob: SpoolFile) -> bytearray:
    data = bytearray()
    while len(data) < blob.size_bytes:
        start, left = blob.offset + len(data), blob.size_bytes - len(data)
        some = os.pread(descriptor, left, start)
        if not some:
            raise _short(blob)
        data += some
    return data


def _short(blob: SpoolFile) -> OSError:
    return OSError(errno.EIO, "shorter than it should be", blob.path)


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


def is_float_array(value: Any) -> bool:
    """Tell whether a value is a numpy array of floats, whose copy is as good as its pickle."""
    kind = type(value)
    is_array = kind.__name__ == "ndarray" and kind.__module__ == "numpy"
    return is_array and value.dtype.kind in "fc"
