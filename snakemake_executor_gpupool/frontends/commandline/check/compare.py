"""Whether two results of a tool are the same, within a tolerance for numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from snakemake_executor_gpupool.tool_api.content_hash import content_hash

#: Where in a result a number stands; the places of a list count as one.
Path = tuple[Any, ...]


class Comparison:
    """Tells whether two results agree.

    Numbers and arrays of floats agree within ``tolerance`` times the larger of their own size and
    of their scale: the largest number that stands at that place in any result, but 1 at most.
    So what is small for all items is compared as finely as what is large, and what is small by
    cancellation is not. NaN agrees with NaN. Containers and dataclasses agree if they have the
    same shape and their entries agree; integers and everything else must be equal.

    Parameters
    ----------
    tolerance
        Relative.
    results
        What the scale is taken from; none: 1 everywhere.
    """

    def __init__(self, tolerance: float, results: Iterable[Any] = ()) -> None:
        self._tolerance = tolerance
        self._scales: dict[Path, float] = {}
        for result in results:
            for path, size in _sizes(result, ()):
                self._scales[path] = max(self._scales.get(path, 0.0), size)

    def same(self, one: Any, other: Any, path: Path = ()) -> bool:
        """Tell whether two values agree."""
        one, other = _plain(one), _plain(other)
        if hasattr(one, "dtype") and hasattr(other, "dtype"):
            return self._same_arrays(one, other, path)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            return list(one) == list(other) and all(
                self.same(one[key], other[key], (*path, str(key))) for key in one
            )
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
            pairs = zip(one, other, strict=False)
            return len(one) == len(other) and all(self.same(a, b, (*path, 0)) for a, b in pairs)
        if _is_number(one) and _is_number(other) and float in (type(one), type(other)):
            return self._same_numbers(float(one), float(other), path)
        return self._same_others(one, other, path)

    def _bound(self, size: float, path: Path) -> float:
        return self._tolerance * max(size, min(1.0, self._scales.get(path, 1.0)))

    def _same_numbers(self, one: float, other: float, path: Path) -> bool:
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other or abs(one - other) <= self._bound(min(abs(one), abs(other)), path)

    def _same_arrays(self, one: Any, other: Any, path: Path) -> bool:
        import numpy as np

        one, other = np.asarray(one), np.asarray(other)
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if one.dtype.kind not in "fc":
            return bool(np.array_equal(one, other))
        floor = min(1.0, self._scales.get(path, 1.0))
        with np.errstate(invalid="ignore", over="ignore"):
            bound = self._tolerance * np.maximum(floor, np.abs(other))
            near = np.isfinite(other) & (np.abs(one - other) <= bound)
            agree = (one == other) | near | (np.isnan(one) & np.isnan(other))
        return bool(agree.all())

    def _same_others(self, one: Any, other: Any, path: Path) -> bool:
        if type(one) is not type(other):
            return bool(one == other) if _is_number(one) and _is_number(other) else False
        if is_dataclass(one) and not isinstance(one, type):
            pairs = [(getattr(one, f.name), getattr(other, f.name), f.name) for f in fields(one)]
            return all(self.same(a, b, (*path, name)) for a, b, name in pairs)
        if not _is_compared_by_identity(one):
            return bool(one == other)
        if hasattr(one, "__dict__"):
            return self.same(vars(one), vars(other), path)
        return one is other or content_hash(one) == content_hash(other)


def _plain(value: Any) -> Any:
    """Return tensors as arrays and tables as mappings of their columns."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        tensor = value.detach().cpu()
        # numpy has no bfloat16.
        return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    if hasattr(value, "to_dict") and hasattr(value, "index"):
        return value.to_dict()
    return value


def _is_compared_by_identity(value: Any) -> bool:
    kind: Any = type(value)
    return kind.__eq__ is object.__eq__


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sizes(value: Any, path: Path) -> Iterator[tuple[Path, float]]:
    """Yield the size of the largest number of each place in a result."""
    value = _plain(value)
    if hasattr(value, "dtype") and getattr(value.dtype, "kind", "") in "fc":
        import numpy as np

        sizes = np.abs(np.asarray(value)).ravel()
        yield path, float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
    elif isinstance(value, float):
        yield path, abs(value) if math.isfinite(value) else 0.0
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _sizes(part, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _sizes(part, (*path, 0))
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _sizes(getattr(value, part.name), (*path, part.name))
    elif _is_compared_by_identity(value) and hasattr(value, "__dict__"):
        yield from _sizes(vars(value), path)


def is_finite(value: Any) -> bool:
    """Tell whether all numbers of a result are finite."""
    value = _plain(value)
    if hasattr(value, "dtype") and getattr(value.dtype, "kind", "") in "fc":
        import numpy as np

        return bool(np.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def shown(value: Any) -> str:
    """Return a value as a message can hold it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
