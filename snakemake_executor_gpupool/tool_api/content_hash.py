"""A hash of a value's content that does not depend on the process, the run or the machine."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import os
import pickle
import sys
from typing import Any

#: Kinds that are identified by their text alone.
_ATOMS = (bool, int, float, complex, str, bytes, bytearray, memoryview)
_NO_ATTRIBUTES: dict[str, Any] = {}


def content_hash(value: Any) -> str:
    """Return a hex SHA-256 of ``value``'s content.

    Equal content gives equal hashes across processes, and values of different
    types or shapes never collide by concatenation: every part is written with
    its type and length. Arrays count by dtype, shape and bytes, those of objects by their entries;
    a mapping counts with its order, which a tool may see; attributes of derived classes count, too.
    A value of any other kind counts by its pickle.
    """
    if type(value) is str:  # what most items are; as below
        data = value.encode("utf-8", "surrogatepass")
        return hashlib.sha256(b"str:%d:0:%b" % (len(data), data)).hexdigest()
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
    if value is None:
        return "NoneType", b"None", []
    if isinstance(value, enum.Enum):
        return f"enum {type(value).__qualname__}", str(value.name).encode(), [value.value]
    if isinstance(value, os.PathLike):
        return "path", os.fsencode(os.fspath(value)), []
    if isinstance(value, _ATOMS):
        return type(value).__name__, _bytes_of(value), _attributes(value)
    if _is_of("numpy", "ndarray", value) or _is_of("numpy", "generic", value):
        return _describe_array(value)
    if _is_of("torch", "Tensor", value):
        return _describe_tensor(value)
    return _describe_container(value)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return repr(value).encode()


def _attributes(value: Any) -> list[Any]:
    """Return the attributes that a derived class adds to its base."""
    attributes = getattr(value, "__dict__", _NO_ATTRIBUTES)
    return [dict(attributes)] if attributes else []


def _is_of(package: str, name: str, value: Any) -> bool:
    """Return whether a value is of a class of a package, without importing that."""
    kind = getattr(sys.modules.get(package), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _describe_array(value: Any) -> tuple[str, bytes, list[Any]]:
    if type(value).__module__ != "numpy":
        # Masked arrays, units and the like have more than bytes.
        return _pickled(value)
    head = [str(value.dtype), tuple(value.shape)]
    if value.dtype.hasobject:  # its bytes are addresses
        return "array", b"", [*head, value.tolist()]
    return "array", value.tobytes(), head


def _describe_tensor(value: Any) -> tuple[str, bytes, list[Any]]:
    torch: Any = sys.modules["torch"]
    try:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse ones, and the like
        return _pickled(value)
    head = [str(value.dtype), tuple(value.shape), bool(value.requires_grad)]
    return "tensor", data, [*head, *_attributes(value)]


def _describe_container(value: Any) -> tuple[str, bytes, list[Any]]:
    name = type(value).__name__
    if isinstance(value, dict):
        pairs = [part for pair in dict.items(value) for part in pair]
        return f"mapping {name}", b"", [*pairs, *_attributes(value)]
    if isinstance(value, (set, frozenset)):
        return name, b"", [*sorted(content_hash(item) for item in value), *_attributes(value)]
    if isinstance(value, (list, tuple)):
        # Their number marks where the entries end.
        return f"{name} {len(value)}", b"", [*value, *_attributes(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        known = {field for field, _ in fields}
        more = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in known}
        return f"dataclass {type(value).__qualname__}", b"", [*fields, *([more] if more else [])]
    return _pickled(value)


def _pickled(value: Any) -> tuple[str, bytes, list[Any]]:
    return f"pickle {type(value).__qualname__}", pickle.dumps(value, protocol=4), []
