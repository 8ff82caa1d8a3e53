"""Computes a reproducible run's items: each in a batch whose shape follows from the item alone.

What a tool says in ``reproducible`` chooses how. For ``"shape"`` items are grouped by the rung that
their length is rounded up to, and each group is filled up to the rows of its rung with copies of
its own items, whose results are dropped. Nothing here looks at how many items, workers, cores or
MiB there are.

A loaded model is tested on the first items that it gets: one item must have the same bits alone,
beside another one, and in another row of a crowd. The copies that fill up a group test each shape
once more, for nothing.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.contract import checked_run
from snakemake_executor_gpupool.tool_api.memory import is_out_of_memory
from snakemake_executor_gpupool.tool_api.reproducible import (
    ALONE,
    SHAPE,
    BatchShape,
    batch_shape,
    refuse_unable,
)
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import shown
from snakemake_executor_gpupool.worker.describe import rung_of, shape_budget

#: Of a class that was defined in Python (``Py_TPFLAGS_HEAPTYPE``).
_HEAP_TYPE = 1 << 9


class Group(NamedTuple):
    """Items that are computed together.

    Attributes
    ----------
    places
        Where they stand among the items that were given.
    shape
        Of their batch; None: as many rows as there are items.
    """

    places: list[int]
    shape: BatchShape | None


class SameBits:
    """The way in which one loaded model keeps the promise, and what was tested of it.

    Raises
    ------
    ContractError
        The tool cannot serve a reproducible run.
    """

    def __init__(self, tool_class: type[Tool]) -> None:
        refuse_unable(tool_class)
        self._way = tool_class.reproducible
        self._has_repeated = False
        self._has_had_company = False
        #: The shapes in which copies were compared.
        self._compared: set[BatchShape] = set()

    def groups(self, tool: Tool, items: Sequence[Any]) -> tuple[list[Group], dict[int, Exception]]:
        """Return which items are computed together, the longest first, and errors by place.

        An item whose length cannot be told has an error, and is in no group.
        """
        if self._way == ALONE:
            return [Group([place], None) for place in range(len(items))], {}
        if self._way != SHAPE:
            return [Group(list(range(len(items))), None)] if items else [], {}
        by_rung: dict[int, list[int]] = {}
        errors: dict[int, Exception] = {}
        for place, item in enumerate(items):
            try:
                by_rung.setdefault(rung_of(tool, item), []).append(place)
            except Exception as error:
                errors[place] = error
        budget = shape_budget(tool, tool.device)
        groups = []
        for rung in sorted(by_rung, reverse=True):
            places, shape = by_rung[rung], batch_shape(rung, budget)
            starts = range(0, len(places), shape.rows)
            groups += [Group(places[start : start + shape.rows], shape) for start in starts]
        return groups, errors

    def run(self, tool: Tool, items: Sequence[Any], shape: BatchShape | None) -> list[Any]:
        """Return one result per item of a group.

        Raises
        ------
        ContractError
            The model gives an item other bits in another company, or the tool is wrong otherwise.
        """
        results = self._first_run(tool, items, shape)
        if shape is not None and len(items) < shape.rows and shape not in self._compared:
            self._compared.add(shape)
            for number in range(len(items), shape.rows):
                first = number % len(items)
                if not same_bits(results[number], results[first]):
                    raise _broken(tool, items[first], shape, "in another row of the same batch")
        return results[: len(items)]

    @staticmethod
    def _first_run(tool: Tool, items: Sequence[Any], shape: BatchShape | None) -> list[Any]:
        try:
            return _filled_run(tool, items, shape)
        except Exception as error:
            if shape is None or not is_out_of_memory(error):
                raise
            why = str(error)
        # Outside the handler: the traceback would keep the failed call's arrays alive.
        raise MemoryError(
            f"{why} (in a reproducible run every batch of items of {shape.tokens} tokens has "
            f"{shape.rows} rows, and is not made smaller. Use a device with more memory, have the "
            "tool's shape_tokens() say less, or run without --gpupool-reproducible)"
        )

    # -- the self-test -----------------------------------------------------------------
    def test(self, tool: Tool, items: Sequence[Any]) -> None:
        """Compute the shortest item in several companies, unless that has been done.

        What an item raises is for its own batch to report; the next items are tested then.

        Raises
        ------
        ContractError
            The model gives it other bits in another company.
        """
        if self._has_had_company or not items:
            return
        try:
            broken = self._tested(tool, items)
        except Exception:
            return
        if broken is not None:
            raise broken

    def _tested(self, tool: Tool, items: Sequence[Any]) -> ContractError | None:
        """Return what the test has found; it is over only once there was company."""
        short, long, shape = self._companions(tool, items)
        is_crowd = len(items) > 1 and self._way != ALONE and (shape is None or shape.rows > 1)
        if self._has_repeated and not is_crowd:
            return None
        alone = _filled_run(tool, [short], shape)[0]
        if not is_crowd:
            _filled_run(tool, [long], shape)
            if not same_bits(_filled_run(tool, [short], shape)[0], alone):
                return _broken(tool, short, shape, "when it is computed again")
            self._has_repeated = True
            self._has_had_company = self._way == ALONE
            return None
        beside = _filled_run(tool, [long, short], shape)
        if not same_bits(beside[1], alone):
            return _broken(tool, short, shape, "beside another item")
        crowd = [long] * (2 if shape is None else shape.rows - 1)
        if not same_bits(_filled_run(tool, [*crowd, short], shape)[-1], alone):
            return _broken(tool, short, shape, "in the last row, beside other items")
        if not same_bits(_filled_run(tool, [long], shape)[0], beside[0]):
            return _broken(tool, long, shape, "alone in its batch")
        self._has_repeated = self._has_had_company = True
        return None

    def _companions(self, tool: Tool, items: Sequence[Any]) -> tuple[Any, Any, BatchShape | None]:
        """Return the shortest item, the longest that has company in its batch, and that shape."""
        by_length = sorted(items, key=lambda item: rung_of(tool, item))
        if self._way != SHAPE:
            return by_length[0], by_length[-1], None
        budget = shape_budget(tool, tool.device)
        shapes = [batch_shape(rung_of(tool, item), budget) for item in by_length]
        crowded = [n for n, shape in enumerate(shapes) if n and shape.rows > 1] or [0]
        return by_length[0], by_length[crowded[-1]], shapes[crowded[-1]]


def _filled_run(tool: Tool, items: Sequence[Any], shape: BatchShape | None) -> list[Any]:
    """Return the results of a batch, those of the copies that fill it up included."""
    rows = len(items) if shape is None else shape.rows
    tool.batch_shape = shape
    try:
        return checked_run(tool, [items[number % len(items)] for number in range(rows)])
    finally:
        tool.batch_shape = None


def same_bits(one: Any, other: Any) -> bool:
    """Tell whether two results are the same, in every bit of their numbers."""
    kind: Any = type(one)
    if kind is not type(other):
        return False
    if kind in (list, tuple):
        return len(one) == len(other) and all(map(same_bits, one, other))
    if kind is dict:
        return same_bits([*one, *one.values()], [*other, *other.values()])
    if _is_its_attributes(kind):  # their pickle also depends on which parts are one object
        return same_bits(vars(one), vars(other))
    try:
        return content_hash(one) == content_hash(other)
    except Exception:  # it cannot be pickled, which sending it reports
        return True


def _is_its_attributes(kind: Any) -> bool:
    """Tell whether all that objects of a class hold is their attributes."""
    bases = kind.__mro__[:-1]
    return bool(bases) and all(
        base.__module__ != "builtins"
        and base.__flags__ & _HEAP_TYPE
        and "__slots__" not in vars(base)
        and not {"__reduce__", "__reduce_ex__", "__getstate__"} & set(vars(base))
        for base in bases
    )


def _broken(tool: Tool, item: Any, shape: BatchShape | None, how: str) -> ContractError:
    name = type(tool).__name__
    which = str(tool.name(item)) or shown(item, 60)
    torch = getattr(sys.modules.get("torch"), "__version__", None)
    place = f"on {tool.device}" + (f", torch {torch}" if torch else "")
    batch = f", in batches of {shape.rows} rows of {shape.tokens} tokens" if shape else ""
    advice = {
        SHAPE: "run() has to pad to self.batch_shape.tokens, whatever the items' own lengths are, "
        f'and to treat full rows as others; reproducible = "{ALONE}" needs no such care',
        ALONE: "a tool that draws random numbers takes their seed from self.seed_of(item)",
    }.get(tool.reproducible or "", f'reproducible = "{ALONE}" computes items one at a time')
    return ContractError(
        f"{name} failed the self-test of a reproducible run ({place}{batch}): item "
        f"{which} comes out with other bits {how}. Nothing of this model is "
        f"used. Its class says reproducible = {tool.reproducible!r}: {advice}. Or run without "
        "--gpupool-reproducible"
    )
