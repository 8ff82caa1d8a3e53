"""Events, effects and what they hold, as values that JSON has, and events back again.

Bytes are not kept, only how many there are and a digest: enough to tell two apart, and all that
decisions may depend on, which never look into what belongs to workers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.effects import Effect
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: Of an effect's longer lists only the length and a digest are kept.
MAX_LISTED = 16
DIGEST_BYTES = 8


@dataclass(frozen=True)
class Opaque:
    """Stands for bytes that were not kept: as long, and equal to those with the same digest."""

    size_bytes: int
    digest: str

    def __len__(self) -> int:
        return self.size_bytes


def digest(data: bytes) -> str:
    """Return what tells one content from another."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


# -- what can be read back -----------------------------------------------------------------
def to_plain(value: Any) -> Any:
    """Return a value as JSON has it; of a dataclass, the fields that are not as by default.

    Raises
    ------
    TypeError
        It holds something that cannot be read back.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, Opaque, SpoolFile)):
        return _blob(value)
    if isinstance(value, Mapping):
        return {_name(name): to_plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        recorded = (f for f in dataclasses.fields(value) if f.metadata.get("recorded", True))
        fields = ((field, getattr(value, field.name)) for field in recorded)
        return {field.name: to_plain(each) for field, each in fields if each != _default(field)}
    raise TypeError(f"a {type(value).__name__} cannot be recorded")


def _blob(value: bytes | Opaque | SpoolFile) -> Any:
    if isinstance(value, SpoolFile):
        return list(value)
    if isinstance(value, Opaque):
        return {"bytes": value.size_bytes, "digest": value.digest}
    return {"bytes": len(value), "digest": digest(value)}


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a mapping by {type(name).__name__} cannot be recorded")
    return name


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def from_plain(hint: Any, value: Any) -> Any:  # noqa: PLR0911 - one line a kind
    """Return the value of a type that :func:`to_plain` has written.

    Raises
    ------
    ValueError, TypeError, KeyError
        It is none.
    """
    if hint is Any:
        return value
    if hint in (bytes, Blob):
        return _read_blob(hint, value)
    if dataclasses.is_dataclass(hint):
        hints = _hints(hint)  # type: ignore[arg-type]
        fields = {name: from_plain(hints[name], each) for name, each in _dict(value).items()}
        return hint(**fields)  # type: ignore[operator]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(inner, value)
    if origin is tuple:
        return _read_tuple(inner, value)
    if origin is list:
        return [from_plain(inner[0], each) for each in _list(value)]
    if origin in (dict, Mapping):
        return {name: from_plain(inner[1], each) for name, each in _dict(value).items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    kinds = (int, float) if hint is float else (hint,)
    if type(value) not in kinds:
        raise ValueError(f"{value!r:.80} is no {getattr(hint, '__name__', hint)}")
    return value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read_blob(hint: Any, value: Any) -> Any:
    if isinstance(value, list) and hint is not bytes:
        path, *numbers = value
        if not isinstance(path, str) or [type(number) for number in numbers] != [int] * 3:
            raise ValueError(f"{value!r:.80} is no place in a file")
        return SpoolFile(path, *numbers)
    size_bytes, blob_digest = _dict(value)["bytes"], value["digest"]
    if type(size_bytes) is not int or size_bytes < 0 or not isinstance(blob_digest, str):
        raise ValueError(f"{value!r:.80} is not a byte count with a digest")
    return Opaque(size_bytes, blob_digest)


def _read_union(inner: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in inner:
        return None
    (hint,) = (each for each in inner if each is not type(None))
    return from_plain(hint, value)


def _read_tuple(inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(from_plain(inner[0], each) for each in _list(value))
    return tuple(from_plain(hint, each) for hint, each in zip(inner, _list(value), strict=True))


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} is no mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.80} is no list")
    return value


# -- what is only compared -----------------------------------------------------------------
def describe(effect: Effect) -> dict[str, Any]:
    """Return an effect as JSON has it: equal to another's if and only if they ask for the same."""
    fields = {field.name: getattr(effect, field.name) for field in dataclasses.fields(effect)}
    return {"effect": type(effect).__name__, **{k: _described(each) for k, each in fields.items()}}


def _described(value: Any) -> Any:  # noqa: PLR0911 - one line a kind
    if isinstance(value, (Request, ToolRef, Device)):
        return _reference(value)
    if isinstance(value, SettledItems):
        return _described([*value.results()])
    if isinstance(value, WorkItem):
        return _work_item(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Mapping):
        return {str(name): _described(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, SpoolFile):
        listed = [_described(each) for each in value]
        if len(listed) <= MAX_LISTED:
            return listed
        return {"count": len(listed), "digest": digest(json.dumps(listed).encode())}
    if dataclasses.is_dataclass(value) and not isinstance(value, Opaque):
        fields = dataclasses.fields(value)
        return {field.name: _described(getattr(value, field.name)) for field in fields}
    return to_plain(value)


def _reference(value: Request | ToolRef | Device) -> str:
    if isinstance(value, Request):
        return f"job {value.job_id}"
    return value.name if isinstance(value, Device) else str(value)


def _work_item(item: WorkItem) -> dict[str, Any]:
    described = {"name": item.name, "tokens": item.tokens, "payload": _blob(item.payload)}
    described["arrival"] = item.arrival
    parts = getattr(item, "parts", None)  # of a merged request: what it goes through with
    return described if parts is None else {**described, "parts": _described(parts)}
