"""Fields of events, whoever wrote them, as the kinds that a view has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]


def number(value: Any) -> float:
    """Return a finite number.

    Raises
    ------
    ValueError, TypeError
        It is none.
    """
    read = float(value)
    if not math.isfinite(read):
        raise ValueError(f"{value} is not finite")
    return read


def number_or_none(value: Any) -> float | None:
    """Return a finite number, or None if it is anything else."""
    is_number = type(value) in (int, float) and math.isfinite(value)
    return float(value) if is_number else None


def whole_or_none(value: Any) -> int | None:
    """Return a whole number, or None if it is anything else."""
    return value if type(value) is int else None


def names(value: Iterable[Any] | None) -> tuple[str, ...]:
    """Return a list of names; of a text, its letters are none.

    Raises
    ------
    TypeError
        It is no list.
    """
    if isinstance(value, (str, bytes)):
        raise TypeError("a text is no list of names")
    return tuple(map(str, value or ()))


def texts(value: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return a mapping of texts to texts.

    Raises
    ------
    AttributeError
        It is no mapping.
    """
    return {str(key): str(each) for key, each in (value or {}).items()}
