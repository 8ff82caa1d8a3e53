"""Params and resources as values that any Python can unpickle."""

from __future__ import annotations

import collections
import enum
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from snakemake_executor_gpupool.tool_api.values import PortablePath


def plain(value: Any) -> Any:
    """Return a value as plain types, where there are such for it.

    Classes that a tool could tell from those, and that every Python has, stay.
    """
    if isinstance(value, enum.Enum):
        return value  # a member that is a text is more than that, and shows as another one
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, PurePath):
        return PortablePath(str(value))
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _like(value, {plain(key): plain(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        plained = [plain(item) for item in value]
        if hasattr(value, "_make"):
            return value._make(plained)
        return tuple(plained) if type(value) is tuple else plained
    return type(value)(map(plain, value)) if type(value) in (set, frozenset) else value


def _like(mapping: Mapping[Any, Any], plained: dict[Any, Any]) -> Any:
    """Return plain entries as the kind of dict of Python's own that they were in."""
    if isinstance(mapping, collections.defaultdict):
        return collections.defaultdict(mapping.default_factory, plained)
    kind: Any = type(mapping)
    return kind(plained) if kind in (collections.OrderedDict, collections.Counter) else plained
