"""Takes the JSON of frames apart: predicates for fields, and what reads objects by them.

No predicate raises, whatever the value: it has been read from JSON that anybody may have written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.wire.bounds import (
    MAX_COST,
    MAX_COUNT,
    MAX_MIB,
    MAX_SECONDS,
    MAX_TOKENS,
    MIN_COST,
    shown,
)

Check = Callable[[Any], bool]
#: No value of a field.
_MISSING = object()
#: How many libraries a worker may name with their versions, and of how many characters each.
MAX_VERSIONS, MAX_VERSION_TEXT = 20, 100
#: What a worker says of a file's content: SHA-256 and size; of a directory, of all its files.
_HASH = re.compile(r"(dir:)?\d{1,19}:[0-9a-f]{64}")
#: How long what a worker says of a model's origin may be, as JSON.
MAX_ORIGIN_TEXT = 20_000


def is_id(value: Any) -> bool:
    """Whether it may be the number of a job, a batch or a stage."""
    return type(value) is int and -(2**63) <= value < 2**63


def whole_up_to(most: int, least: int = 0) -> Check:
    """Return a check for whole numbers from ``least`` to ``most``; True and 1.0 are none."""
    return lambda value: type(value) is int and least <= value <= most


def number_up_to(most: float) -> Check:
    """Return a check for numbers from 0 to ``most``: finite, so that sums of them stay finite."""
    return lambda value: type(value) in (int, float) and 0 <= value <= most


def is_text(value: Any) -> bool:
    """Whether it is a string."""
    return type(value) is str


def is_flag(value: Any) -> bool:
    """Whether it is True or False."""
    return type(value) is bool


def is_inner_path(value: Any) -> bool:
    """Whether it is a path that stays below the directory that it is relative to."""
    return isinstance(value, str) and "\0" not in value and not {"", ".."} & {*value.split("/")}


def one_of(known: Collection[str]) -> Check:
    """Return a check for one of some strings."""
    return lambda value: isinstance(value, str) and value in known


def or_none(check: Check) -> Check:
    """Return a check that takes None, too."""
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    """Return a check for a list of such values."""
    return lambda value: isinstance(value, list) and all(map(check, value))


is_seconds = number_up_to(MAX_SECONDS)
is_tokens = whole_up_to(MAX_TOKENS)
is_count = whole_up_to(MAX_COUNT)
is_mib = whole_up_to(MAX_MIB)


def are_texts(value: Any) -> bool:
    """Whether it is a list of strings; a column is looked at as one."""
    return isinstance(value, list) and {*map(type, value)} <= {str}


def are_costs(value: Any) -> bool:
    """Whether it is a list of costs, in one pass over a whole column.

    A cost may be added, multiplied and divided by: it is neither too large nor too close to 0.
    """
    if not isinstance(value, list) or not {*map(type, value)} <= {int, float}:
        return False
    # Most columns have few different costs. NaN is within no bounds.
    return all(cost == 0 or MIN_COST <= cost <= MAX_COST for cost in {*value})


def are_tokens(value: Any) -> bool:
    """Whether it is a list of numbers of tokens. As ``list_of(is_tokens)``, by its extremes."""
    if not isinstance(value, list) or not {*map(type, value)} <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) <= MAX_TOKENS)


def are_positions(value: Any) -> bool:
    """Whether it is a list of positions in a frame, each larger than the one before."""
    if not isinstance(value, list) or not all(map(is_count, value)):
        return False
    return all(one < other for one, other in itertools.pairwise(value))


def are_versions(value: Any) -> bool:
    """Whether it is a short object of short texts: versions by the names of libraries."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_VERSIONS
        and all(
            is_text(text) and len(text) <= MAX_VERSION_TEXT for text in (*value, *value.values())
        )
    )


def are_hashes(value: Any) -> bool:
    """Whether it is a list of SHA-256 hashes with sizes; an unknown one is empty."""
    return isinstance(value, list) and all(
        type(each) is str and (not each or _HASH.fullmatch(each) is not None) for each in value
    )


def is_origin(value: Any) -> bool:
    """Whether it is an object of texts and of lists of texts, and not too long."""
    if not isinstance(value, dict):
        return False
    size = 0
    for name, each in value.items():
        texts = each if isinstance(each, list) else [each]
        if not all(map(is_text, texts)):
            return False
        size += len(name) + sum(map(len, texts))
    return size <= MAX_ORIGIN_TEXT


class Fields:
    """The JSON object of a frame, or one inside it, taken apart field by field.

    Parameters
    ----------
    values
        The object, or whatever a worker has put in its place.
    where
        What messages call it.
    """

    __slots__ = ("_left", "_values", "_where")

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise ProtocolError(f"{where} is {shown(values, 200)}")
        self._values: Mapping[str, Any] = values
        self._left = len(values)
        self._where = where

    def take(self, name: str, is_sound: Check) -> Any:
        """Return a field.

        Raises
        ------
        ProtocolError
            It is missing, or not sound.
        """
        value = self._values.get(name, _MISSING)
        if value is _MISSING or not is_sound(value):
            found = shown("missing" if value is _MISSING else value, 200)
            raise ProtocolError(f"{name!r} of {self._where} is {found}")
        self._left -= 1
        return value

    def maybe(self, name: str, is_sound: Check, default: Any) -> Any:
        """Return a field that may be missing.

        Raises
        ------
        ProtocolError
            It is there, and not sound.
        """
        return self.take(name, is_sound) if name in self._values else default

    def column(self, name: str, are_sound: Check, count: int) -> tuple[Any, ...]:
        """Return a field that is a list, or the one value of all ``count`` places.

        Raises
        ------
        ProtocolError
            It is missing, or not sound.
        """
        if isinstance(self._values.get(name), list):
            return tuple(self.take(name, are_sound))
        return (self.take(name, lambda value: are_sound([value])),) * count

    def inner(self, name: str) -> Fields:
        """Return a field that is an object.

        Raises
        ------
        ProtocolError
            It is none.
        """
        return Fields(self.take(name, lambda value: True), f"{name!r} of {self._where}")

    def all_inner(self, name: str) -> list[Fields]:
        """Return a field that is a list of objects.

        Raises
        ------
        ProtocolError
            It is none.
        """
        where = f"{name!r} of {self._where}"
        values = self.take(name, lambda value: isinstance(value, list))
        return [Fields(value, where) for value in values]

    def end(self) -> None:
        """See that nothing is left.

        Raises
        ------
        ProtocolError
            There are fields that nobody has taken.
        """
        if self._left:
            raise ProtocolError(f"{self._where} has {self._left} fields that nobody knows")
