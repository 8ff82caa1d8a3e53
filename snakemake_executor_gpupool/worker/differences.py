"""By how much two files differ: in their bytes, else in the numbers that they hold.

Arrays (``.npy``, ``.npz``), tables (``.parquet``) and texts are read; all else, and texts that are
no UTF-8, count by their bytes. In a text each number with a point or an exponent is compared, and
all else has to be equal.

A number in a text has been rounded where it ends, so there it may differ by one in its last place
more, unless nothing may differ at all.

Standard library only, Python >= 3.9; libraries are imported for the files that need them.
"""

from __future__ import annotations

import filecmp
import gzip
import importlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from snakemake_executor_gpupool.tool_api.tolerance import Tolerance

#: Numbers that may be rounded; integers are equal or not.
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|\b(?:nan|inf)\b", re.I)
#: Larger texts count by their bytes alone.
MAX_TEXT_BYTES = 256 * 1024**2
#: So many numbers in one line are an array; fewer are compared with those above and below.
LEAST_OF_VECTOR = 8
TO_THE_BIT, SAME_VALUES, WITHIN, BEYOND, OTHER = "bits", "values", "within", "beyond", "other"
_ORDER = (TO_THE_BIT, SAME_VALUES, WITHIN, BEYOND, OTHER)


class Difference(NamedTuple):
    """What compares two files.

    Attributes
    ----------
    kind
        ``TO_THE_BIT``; ``SAME_VALUES``, in other bytes; ``WITHIN`` the tolerance, or ``BEYOND``
        it; ``OTHER``: in what is no number, in shape, or in what cannot be compared.
    largest, relative
        The largest difference of two numbers, and that as a part of the largest number beside it.
    where
        Which file, array, column or line it is in.
    """

    kind: str
    largest: float = 0.0
    relative: float = 0.0
    where: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the two count as the same."""
        return self.kind in (TO_THE_BIT, SAME_VALUES, WITHIN)


def difference(one: str, other: str, tolerance: Tolerance | None) -> Difference:
    """Compare two files or directories.

    Parameters
    ----------
    tolerance
        None: it is not known, and every difference of numbers is beyond it.
    """
    if os.path.isdir(one) and os.path.isdir(other):
        names = _files_below(one)
        if names != _files_below(other):
            return Difference(OTHER, where="the names of files")
        pairs = [(os.path.join(one, name), os.path.join(other, name)) for name in names]
        found = [difference(a, b, tolerance) for a, b in pairs]
        return worst([each._replace(where=_joined(n, each.where)) for n, each in zip(names, found)])
    if os.path.isdir(one) or os.path.isdir(other):
        return Difference(OTHER, where="a file and a directory")
    if filecmp.cmp(one, other, shallow=False):
        return Difference(TO_THE_BIT)
    try:
        return _of_values(one, other, tolerance)
    except ImportError as error:
        return Difference(OTHER, where=f"bytes ({error.name} is needed to read more)")
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return Difference(OTHER, where="bytes")  # one of them is damaged


def worst(found: Sequence[Difference]) -> Difference:
    """Return the worst of several differences."""
    if not found:
        return Difference(TO_THE_BIT)
    return max(found, key=lambda each: (_ORDER.index(each.kind), each.relative, each.largest))


def _files_below(top: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(directory, name), top)
        for directory, _, names in os.walk(top)
        for name in names
    )


def _joined(name: str, where: str) -> str:
    return f"{name}: {where}" if where else name


def _of_values(one: str, other: str, tolerance: Tolerance | None) -> Difference:
    suffix = os.path.splitext(one)[1]
    if suffix in (".npy", ".npz"):
        return _of_arrays(one, other, tolerance)
    if suffix == ".parquet":
        return _of_tables(one, other, tolerance)
    return _of_texts(one, other, tolerance)


# -- arrays ------------------------------------------------------------------------
def _of_arrays(one: str, other: str, tolerance: Tolerance | None) -> Difference:
    np: Any = importlib.import_module("numpy")

    first, second = (np.load(path, allow_pickle=False) for path in (one, other))
    if not hasattr(first, "files"):
        return _of_pair(first, second, tolerance, "")
    if first.files != second.files:
        return Difference(OTHER, where="the names of arrays")
    return worst([_of_pair(first[n], second[n], tolerance, n) for n in first.files])


def _of_pair(one: Any, other: Any, tolerance: Tolerance | None, where: str) -> Difference:
    """Compare two arrays."""
    np: Any = importlib.import_module("numpy")

    if one.shape != other.shape or one.dtype != other.dtype:
        shapes = f"{one.shape} of {one.dtype} and {other.shape} of {other.dtype}"
        return Difference(OTHER, where=_joined(where, shapes))
    if one.dtype.kind not in "fc":
        return Difference(SAME_VALUES if (one == other).all() else OTHER, where=where)
    if one.tobytes() == other.tobytes():
        return Difference(SAME_VALUES, where=where)
    one, other = (np.asarray(each, dtype=complex if each.dtype.kind == "c" else float)
                  for each in (one, other))  # fmt: skip
    odd = ~(np.isfinite(one) & np.isfinite(other))
    if not np.array_equal(one[odd], other[odd], equal_nan=True):
        return Difference(OTHER, where=_joined(where, "what is not finite"))
    one, other = one[~odd], other[~odd]
    if not one.size:
        return Difference(SAME_VALUES, where=where)
    largest = float(np.max(np.abs(one - other)))
    scale = float(max(np.max(np.abs(one)), np.max(np.abs(other))))
    return _judged(largest, scale, tolerance, where)


def _judged(
    largest: float, scale: float, tolerance: Tolerance | None, where: str, last_place: float = 0.0
) -> Difference:
    relative = largest / scale if scale else 0.0
    # A tool that is exact writes exactly the same text.
    bound = last_place + tolerance.bound(scale) if tolerance is not None and any(tolerance) else 0.0
    kind = WITHIN if largest <= bound else BEYOND
    return Difference(SAME_VALUES if largest == 0 else kind, largest, relative, where)


# -- tables ------------------------------------------------------------------------
def _of_tables(one: str, other: str, tolerance: Tolerance | None) -> Difference:
    np: Any = importlib.import_module("numpy")
    parquet: Any = importlib.import_module("pyarrow.parquet")

    first, second = (parquet.read_table(path) for path in (one, other))
    if first.schema != second.schema or first.num_rows != second.num_rows:
        return Difference(OTHER, where="columns or the number of rows")
    found = []
    for name in first.column_names:
        columns = [table.column(name).combine_chunks() for table in (first, second)]
        if columns[0].equals(columns[1]):
            continue
        values = [_numbers_of(column) for column in columns]
        if any(value is None for value in values):
            found.append(Difference(OTHER, where=f"column {name}"))
            continue
        pair = [np.asarray(value) for value in values]
        found.append(_of_pair(pair[0], pair[1], tolerance, f"column {name}"))
    return worst(found) if found else Difference(SAME_VALUES)


def _numbers_of(column: Any) -> Any:
    """Return a column of floats, or of lists of floats, as one array; None: it is another one."""
    while "list" in str(column.type).split("<")[0]:
        column = column.flatten()
    is_float = str(column.type) in ("halffloat", "float", "double")
    return column.to_numpy(zero_copy_only=False) if is_float else None


# -- texts -------------------------------------------------------------------------
def _of_texts(one: str, other: str, tolerance: Tolerance | None) -> Difference:
    if max(os.path.getsize(one), os.path.getsize(other)) > MAX_TEXT_BYTES:
        return Difference(OTHER, where="bytes")
    first, second = (_lines(path) for path in (one, other))
    if len(first) != len(second):
        return Difference(OTHER, where=f"{len(first)} and {len(second)} lines")
    columns: dict[int, _Column] = {}
    for number, (mine, yours) in enumerate(zip(first, second), start=1):
        if _NUMBER.split(mine) != _NUMBER.split(yours):
            return Difference(OTHER, where=f"line {number}")
        pairs = list(zip(_NUMBER.findall(mine), _NUMBER.findall(yours)))
        is_vector = len(pairs) >= LEAST_OF_VECTOR
        scale = max(map(_size, sum(pairs, ()))) if is_vector else 0.0
        for place, pair in enumerate(pairs):
            columns.setdefault(place, _Column()).add(pair, number, scale)
    return worst([column.judged(tolerance) for column in columns.values()])


def _lines(path: str) -> list[str]:
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    return data.decode("utf-8").splitlines()


class _Column:
    """The numbers at one place of all lines."""

    def __init__(self) -> None:
        self._largest = self._scale = 0.0
        #: The finest of all: some writers drop zeros at a number's end.
        self._last_place = math.inf
        self._line = 0
        self._odd = 0

    def add(self, pair: tuple[str, str], line: int, scale: float) -> None:
        """Take in the numbers of a line.

        Parameters
        ----------
        scale
            The size of the largest number that they are part of an array with.
        """
        one, other = map(float, pair)
        if not (math.isfinite(one) and math.isfinite(other)):
            is_same = one == other or (math.isnan(one) and math.isnan(other))
            self._odd = self._odd or (0 if is_same else line)
            return
        self._scale = max(self._scale, abs(one), abs(other), scale)
        self._last_place = min(self._last_place, *_places(pair))
        if abs(one - other) > self._largest:
            self._largest, self._line = abs(one - other), line

    def judged(self, tolerance: Tolerance | None) -> Difference:
        """Return what its numbers come to."""
        if self._odd:
            return Difference(OTHER, where=f"line {self._odd}")
        where = f"line {self._line}" if self._line else ""
        rounding = self._last_place * 1.000001 if self._largest else 0.0
        return _judged(self._largest, self._scale, tolerance, where, rounding)


def _size(text: str) -> float:
    number = abs(float(text))
    return number if math.isfinite(number) else 0.0


def _places(texts: Sequence[str]) -> Iterator[float]:
    """Yield what one in the last place of each number is."""
    for text in texts:
        mantissa, _, exponent = text.lower().partition("e")
        decimals = len(mantissa.partition(".")[2])
        yield 10.0 ** (int(exponent or 0) - decimals)
