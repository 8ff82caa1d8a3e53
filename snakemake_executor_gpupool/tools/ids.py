"""Ids of items in tables and archives: none is left out, made up or renamed.

Standard library only.
"""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.errors import InputError


class Ids:
    """The ids of a file, as they are read: each is there, and no two are the same.

    Parameters
    ----------
    path
        The file, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: dict[str, int] = {}

    def add(self, row: int, value: Any) -> str:
        """Return the id of a row, by its number from 1.

        Raises
        ------
        InputError
            It is missing, neither text nor a whole number, or that of an earlier row.
        """
        where = f"{self._path}, row {row}"
        is_nan = isinstance(value, float) and value != value  # noqa: PLR0124 - only NaN differs
        if value is None or is_nan or (isinstance(value, str) and not value.strip()):
            raise InputError(f"{where}: there is no id; write one, or remove the row")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise InputError(
                f"{where}: the id {value!r} is of the type {type(value).__name__}; ids are text or "
                "whole numbers, so that they are not changed on the way: convert the column to text"
            )
        name = str(value)
        first = self._rows.setdefault(name, row)
        if first != row:
            raise InputError(
                f"{where}: the id {name!r} was already used in row {first}; ids must be unique, as "
                "they name the outputs"
            )
        return name
