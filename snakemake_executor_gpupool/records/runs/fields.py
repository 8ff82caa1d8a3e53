"""Fields of events, whoever wrote them, as the kinds that a view has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]
#: No run takes as many seconds, or has as many items; a damaged line may say anything.
LIMIT = 1e15


def number(value: Any) -> float:
    """Return a finite number that is no larger than a run can have.

    Raises
    ------
    ValueError, TypeError
        It is not a number, or not a finite one below the limit.
    """
    read = float(value)
    if not abs(read) < LIMIT:  # nor is NaN
        raise ValueError(f"expected a finite number, got {value!r:.80}")
    return read


def count(value: Any) -> int:
    """Return how many of something there are.

    Raises
    ------
    ValueError, TypeError
        It is not a whole number from 0 to the limit.
    """
    read = int(value)
    if not 0 <= read < LIMIT:
        raise ValueError(f"expected a whole number from 0 on, got {value!r:.80}")
    return read


def number_or_none(value: Any) -> float | None:
    """Return a finite number, or None if it is anything else."""
    is_number = type(value) in (int, float) and abs(value) < LIMIT
    return float(value) if is_number else None


def whole_or_none(value: Any) -> int | None:
    """Return a whole number, or None if it is anything else."""
    return value if type(value) is int and abs(value) < LIMIT else None


def names(value: Iterable[Any] | None) -> tuple[str, ...]:
    """Return a list of names; a text is refused, not taken for a list of letters.

    Raises
    ------
    TypeError
        It is not a list.
    """
    if isinstance(value, (str, bytes)):
        raise TypeError(f"expected a list of names, got the text {value!r:.80}")
    return tuple(map(str, value or ()))


def texts(value: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return a mapping of texts to texts.

    Raises
    ------
    AttributeError
        It is not a mapping.
    """
    return {str(key): str(each) for key, each in (value or {}).items()}
