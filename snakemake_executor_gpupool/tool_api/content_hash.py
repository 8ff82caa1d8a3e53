"""A hash of a value's content that does not depend on the process, the run or the machine."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import io
import os
import pickle
import sys
import types
from typing import Any

#: Kinds that are identified by their text alone.
_ATOMS = (bool, int, float, complex, str, bytes, bytearray, memoryview)
#: Of these kinds themselves what is shown is the whole number.
_NUMBERS = frozenset((bool, int, float, complex))
#: Kinds whose objects have nothing beside their content.
_BARE = frozenset((*_ATOMS, dict, list, tuple, set, frozenset))
#: What stands among a class's slots for something else.
_NO_SLOTS = frozenset(("__dict__", "__weakref__"))
#: Names of a tool's file as a module: run by itself, and loaded from one place or another.
_OWN_MODULES = ("__main__", "__mp_main__", "gpupool_tool_")
_MISSING = object()


def content_hash(value: Any) -> str:
    """Return a hex SHA-256 of ``value``'s content.

    Equal content gives equal hashes across processes, and values of different
    types or shapes never collide by concatenation: every part is written with
    its type and length. Arrays count by dtype, shape and bytes, those of objects by their entries;
    a mapping counts with its order, which a tool may see; attributes of derived classes count, too,
    and so do their names: those of a tool's file without its module's, which is another one where
    the file is run by itself. A value of any other kind counts by its pickle.
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
    kind = type(value)
    if kind is str:  # the first ones are what most are
        return "str", value.encode("utf-8", "surrogatepass"), []
    if kind in _NUMBERS:
        return kind.__name__, repr(value).encode(), []
    if value is None:
        return "NoneType", b"None", []
    if isinstance(value, enum.Enum):
        return f"enum {_name_of(value)}", str(value.name).encode(), [value.value]
    if kind.__module__.partition(".")[0] == "pathlib":
        tag = "path" if kind.__name__ == "PosixPath" else f"path {kind.__name__}"
        return tag, os.fsencode(value), []
    if isinstance(value, _ATOMS):
        return _name_of(value), _bytes_of(value), _attributes(value)
    if _is_of("numpy", "ndarray", value) or _is_of("numpy", "generic", value):
        return _describe_array(value)
    if _is_of("torch", "Tensor", value):
        return _describe_tensor(value)
    return _describe_container(value)


def _name_of(value: Any) -> str:
    """Return the name of a value's class; two modules may each have one of the same name."""
    kind = type(value)
    if kind in _BARE:
        return kind.__name__
    return kind.__qualname__ if _is_own(kind) else f"{kind.__module__}.{kind.__qualname__}"


def _is_own(kind: Any) -> bool:
    """Return whether something is of a tool's file: its module's name is another one elsewhere."""
    module = getattr(kind, "__module__", None)
    return isinstance(module, str) and module.startswith(_OWN_MODULES)


def _bytes_of(value: Any) -> bytes:
    # By the methods of the base: a derived class may show less of itself.
    if isinstance(value, str):
        return str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(memoryview(value))
    base = next(kind for kind in (int, float, complex) if isinstance(value, kind))
    return base.__repr__(value).encode()


def _attributes(value: Any) -> list[Any]:
    """Return the attributes that a derived class adds to its base."""
    if type(value) in _BARE:
        return []
    found = dict(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            is_hidden = name.startswith("__") and not name.endswith("__")
            own = f"_{kind.__name__.lstrip('_')}{name}" if is_hidden else name
            there = getattr(value, own, _MISSING) if name not in _NO_SLOTS else _MISSING
            if there is not _MISSING:
                found[own] = there
    if _is_of("collections", "defaultdict", value):
        found["default_factory"] = value.default_factory
    return [found] if found else []


def _is_of(package: str, name: str, value: Any) -> bool:
    """Return whether a value is of a class of a package, without importing that."""
    kind = getattr(sys.modules.get(package), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _describe_array(value: Any) -> tuple[str, bytes, list[Any]]:
    if type(value).__module__ != "numpy":
        # Masked arrays, units and the like have more than bytes.
        return _pickled(value)
    # A matrix is multiplied in another way, and what is summed up in another order is rounded so.
    kind = type(value).__name__ if _is_of("numpy", "ndarray", value) else "scalar"
    tag = "array" if kind == "ndarray" else f"array {kind}"
    head = [str(value.dtype), tuple(value.shape), *(["F"] if value.flags.fnc else [])]
    if value.dtype.hasobject:  # its bytes are addresses
        return tag, b"", [*head, value.tolist()]
    return tag, value.tobytes(), head


def _describe_tensor(value: Any) -> tuple[str, bytes, list[Any]]:
    torch: Any = sys.modules["torch"]
    if value.is_quantized or value.is_meta:  # their bytes alone say little, or nothing
        return _pickled(value)
    try:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        order = [] if value.is_contiguous() else [tuple(value.stride())]
    except (RuntimeError, TypeError, NotImplementedError):  # sparse ones, and the like
        return _pickled(value)
    head = [str(value.dtype), tuple(value.shape), bool(value.requires_grad), *order]
    tag = "tensor" if type(value) is torch.Tensor else f"tensor {_name_of(value)}"
    return tag, data, [*head, *_attributes(value)]


def _describe_container(value: Any) -> tuple[str, bytes, list[Any]]:
    name = _name_of(value)
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
        rest = [{k: v for k, v in more.items() if k not in known} for more in _attributes(value)]
        return f"dataclass {name}", b"", [*fields, *filter(None, rest)]
    return _pickled(value)


class _Pickler(pickle.Pickler):
    """Names what is of a tool's file without the name of its module."""

    def persistent_id(self, value: Any) -> str | None:
        is_named = isinstance(value, (type, types.FunctionType)) and _is_own(value)
        return value.__qualname__ if is_named else None


def _pickled(value: Any) -> tuple[str, bytes, list[Any]]:
    data = pickle.dumps(value, protocol=4)
    if any(name.encode() in data for name in _OWN_MODULES):
        file = io.BytesIO()
        _Pickler(file, protocol=4).dump(value)
        data = file.getvalue()
    return f"pickle {type(value).__qualname__}", data, []
