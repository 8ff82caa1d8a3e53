"""Items and results for another process: packed, or refused with the part that cannot be sent.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import shown
from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile
from snakemake_executor_gpupool.wire.payload import (
    PICKLE_PROTOCOL,
    PLAIN,
    load_payload,
    load_payloads,
    pack,
    place_of,
)
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.output_capture import tell_error

#: How many parts of a value are examined for one that cannot be sent.
MAX_PARTS = 2000


class CannotTravel(ContractError):
    """An item or a result cannot go to another process."""


def packed_item(tool: Tool, item: Any, position: int) -> list[Any]:
    """Return the payload of an item.

    Raises
    ------
    CannotTravel
        A part of it cannot be sent to the process that holds the model.
    """
    try:
        return pack(item)
    except Exception as error:
        what = f"item #{position} of {type(tool).__name__}.read()"
        raise _refusal(what, "the process that holds the model", item, error) from error


def pack_items(
    tool: Tool, items: Sequence[Any], first: int, spool: Spool, blobs: list[Blob]
) -> None:
    """Add the payloads of items to blobs; ``first`` is the position of the first one.

    Raises
    ------
    CannotTravel
        As :func:`packed_item`; those before it were added.
    OSError
        The spool has no room, or is gone.
    """
    if not {*map(type, items)} <= PLAIN:
        for position, item in enumerate(items, first):
            blobs.append(spool.put(packed_item(tool, item, position)))
        return
    for item in items:
        blob = pickle.dumps(item, PICKLE_PROTOCOL)
        blobs.append(blob if len(blob) <= SPOOL_BYTES else spool.put([blob]))


def packed_result(tool: Tool, result: Any) -> list[Any]:
    """Return the payload of a result.

    Raises
    ------
    CannotTravel
        A part of it cannot be sent to the process that writes files.
    Exception
        It cannot be pickled, for another reason.
    """
    try:
        return pack(result)
    except Exception as error:
        what = f"a result of {type(tool).__name__}.run()"
        raise _refusal(what, "the process that writes files", result, error) from error


def _refusal(what: str, where: str, value: Any, error: Exception) -> Exception:
    reason = culprit(value)
    if reason is None:
        return error
    part, instead = reason
    verb = "is" if reason == _part(value) else "holds"
    return CannotTravel(f"{what} {verb} {part}, which cannot go to {where}. {instead}")


def unpacked_items(tool: Tool, payloads: Iterable[Blob]) -> list[Any]:
    """Return items; one that cannot be unpickled is an :class:`Unreadable`.

    Returns
    -------
    list
        In the order of the payloads.
    """
    payloads = list(payloads)
    try:
        return load_payloads(payloads)
    except Exception:
        return [_unpacked(tool, payload) for payload in payloads]


class Unreadable:
    """Stands for an item that cannot be unpickled."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error


def _unpacked(tool: Tool, payload: Blob) -> Any:
    try:
        return load_payload(payload)
    except Exception as error:
        if isinstance(error, OSError) and isinstance(payload, SpoolFile):
            return Unreadable(tell_error(error))
        refusal = ContractError(
            f"an item of {type(tool).__name__}.read() cannot be read back in the process that "
            f"holds the model ({type(error).__name__}: {error}). Let items be plain values: texts, "
            "numbers, arrays, and tuples or dicts of these"
        )
        return Unreadable({**tell_error(refusal), "kind": "input"})


# -- what is it that keeps a value here -----------------------------------------------
def culprit(value: Any) -> tuple[str, str] | None:
    """Return the part of a value that cannot be sent, and what to do; None: not known."""
    waiting: list[Any] = [value]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_PARTS:
        part = waiting.pop(0)
        if id(part) in seen or isinstance(part, (str, bytes, int, float, type(None))):
            continue
        seen.add(id(part))
        reason = _part(part)
        if reason is not None:
            return reason
        waiting.extend(_parts(part))
    return None


def _part(part: Any) -> tuple[str, str] | None:
    kind = type(part)
    place = place_of(part) if hasattr(kind, "shape") else ""
    if place:
        return f"a tensor on {place}", "Take .cpu() of it"
    if isinstance(part, io.IOBase):
        return f"an open file ({shown(getattr(part, 'name', kind.__name__))})", (
            "Take its path, or what is in it"
        )
    if isinstance(part, (types.GeneratorType, types.AsyncGeneratorType)) or (
        isinstance(part, Iterator) and not _is_picklable(part)
    ):
        return f"a {kind.__name__}, whose values are not computed yet", "Make a list of it"
    if isinstance(part, (types.FunctionType, types.LambdaType)) and not _is_found(part):
        return f"the function {part.__qualname__}", (
            "Define it at the top of a file, or take what it returns"
        )
    if isinstance(part, types.ModuleType):
        return f"the module {part.__name__}", "Import it where it is used"
    if kind.__module__ in ("_thread", "threading", "sqlite3", "_socket", "socket", "mmap"):
        return f"a {kind.__name__}", "Make it where it is used"
    named = part if isinstance(part, type) else kind
    if not _is_found(named):
        return f"an object of the class {named.__qualname__}", (
            "Define that class at the top of the tool's file, under its own name; or take a tuple "
            "or a dict"
        )
    return None


def _is_found(named: Any) -> bool:
    """Return whether another process finds a class or function by its name."""
    value: Any = sys.modules.get(getattr(named, "__module__", None) or "")
    if value is None:
        return False
    for name in named.__qualname__.split("."):
        value = getattr(value, name, None)
    return value is named


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return [] if isinstance(value, type) else list(getattr(value, "__dict__", {}).values())
