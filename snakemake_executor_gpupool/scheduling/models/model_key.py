"""The keys of models, which many tables are looked up by. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class ModelKey(tuple[Hashable, ...]):
    """A tuple whose hash is computed once: that of all that a tool is made of takes microseconds.

    It equals, and is found by, a plain tuple of the same parts; a copy in another process is one.
    """

    _hash: int

    def __new__(cls, parts: Iterable[Hashable]) -> ModelKey:
        """Make a key of the parts."""
        key = super().__new__(cls, parts)
        key._hash = tuple.__hash__(key)
        return key

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type, tuple[tuple[Hashable, ...]]]:
        return tuple, (tuple(self),)
