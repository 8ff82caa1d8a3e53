"""A hash of a value's content that does not depend on the process, the run or the machine."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from typing import Any


def content_hash(value: Any) -> str:
    """Return a hex SHA-256 of ``value``'s content.

    Equal content gives equal hashes across processes, and values of different
    types or shapes never collide by concatenation: every part is written with
    its type and length. Arrays (anything with ``dtype``, ``shape`` and
    ``tobytes``) count by dtype, shape and bytes; a mapping counts without
    regard to its order; what is none of the known kinds counts by its pickle.
    """
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Any, value: Any) -> None:
    tag, body, parts = _describe(value)
    update(f"{tag}:{len(body)}:{len(parts)}:".encode())
    update(body)
    for part in parts:
        _feed(update, part)


def _describe(value: Any) -> tuple[str, bytes, list[Any]]:
    """Split a value into a type tag, its own bytes and the values inside it."""
    if value is None or isinstance(value, (bool, int, float, complex)):
        return type(value).__name__, repr(value).encode(), []
    if isinstance(value, str):
        return "str", value.encode("utf-8", "surrogatepass"), []
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes", bytes(value), []
    if isinstance(value, os.PathLike):
        return "path", os.fsencode(os.fspath(value)), []
    if all(hasattr(value, name) for name in ("dtype", "shape", "tobytes")):
        if getattr(value.dtype, "hasobject", False):
            # The bytes are addresses: of other objects by now, and the next array's may be there.
            return "array", b"", [str(value.dtype), tuple(value.shape), value.tolist()]
        return "array", value.tobytes(), [str(value.dtype), tuple(value.shape)]
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return _describe(value.detach().cpu().numpy())
    return _describe_container(value)


def _describe_container(value: Any) -> tuple[str, bytes, list[Any]]:
    if isinstance(value, dict):
        pairs = sorted(((content_hash(k), k, v) for k, v in value.items()), key=lambda p: p[0])
        return "dict", b"", [part for _, key, item in pairs for part in (key, item)]
    if isinstance(value, (set, frozenset)):
        return "set", b"", sorted(content_hash(item) for item in value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, b"", list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return f"dataclass {type(value).__qualname__}", b"", fields
    return f"pickle {type(value).__qualname__}", pickle.dumps(value, protocol=4), []
