"""How the page's data is packed: columns of whole numbers, texts said once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

#: The page's times are in ticks since the run's start.
TICKS_PER_S = 10_000
#: Stands for what is not there in a column.
NONE = -1


def ticks(seconds: float | None) -> int:
    """Return a duration, or a time since the run's start, in ticks; none: -1."""
    return NONE if seconds is None else max(round(seconds * TICKS_PER_S), 0)


def microseconds(seconds: float | None) -> int:
    """Return a duration in microseconds; none: -1."""
    return NONE if seconds is None else max(round(seconds * 1e6), 0)


def stepwise(values: Sequence[int]) -> dict[str, list[int]]:
    """Return a column that grows, as the steps from one number to the next: they pack better."""
    return {"steps": [b - a for a, b in pairwise([0, *values])]}


class Texts:
    """Texts that columns refer to by number; each is kept once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return a text's number; of an empty one: -1."""
        if not text:
            return NONE
        return self._numbers.setdefault(text, len(self._numbers))

    def all(self) -> list[str]:
        """Return the texts in order of their numbers."""
        return list(self._numbers)


class Table:
    """Rows that are kept as one list for each column.

    Parameters
    ----------
    names
        The columns; each row must have a value for each of them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in names}

    def add(self, **row: Any) -> None:
        """Append a row.

        Raises
        ------
        KeyError
            It lacks a column, or has one more.
        """
        if row.keys() != self.columns.keys():
            raise KeyError(f"columns {sorted(self.columns.keys() ^ row.keys())}")
        for name, value in row.items():
            self.columns[name].append(value)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def packed(self, stepped: Iterable[str] = ()) -> dict[str, Any]:
        """Return the columns; those named are packed as steps."""
        named = set(stepped)
        return {n: stepwise(v) if n in named else v for n, v in self.columns.items()}
