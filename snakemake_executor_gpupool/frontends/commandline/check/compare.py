"""Whether two results of a tool are the same, within a tolerance for numbers."""

from __future__ import annotations

import math
from typing import Any


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Tell whether two results agree.

    Numbers and arrays of floats agree within ``tolerance * max(1, |other|)``, element by
    element, and NaN agrees with NaN; containers agree if they have the same shape and their
    entries agree; everything else must be equal.
    """
    if all(hasattr(value, "detach") and hasattr(value, "cpu") for value in (one, other)):
        one, other = one.detach().cpu(), other.detach().cpu()
        # numpy has no bfloat16.
        one, other = (
            t.float().numpy() if t.is_floating_point() else t.numpy() for t in (one, other)
        )
    if hasattr(one, "dtype") and hasattr(other, "dtype"):
        return _same_arrays(one, other, tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[k], other[k], tolerance) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in pairs)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return _same_numbers(float(one), float(other), tolerance)
    return bool(one == other)


def _same_numbers(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= tolerance * max(1.0, abs(other))


def _same_arrays(one: Any, other: Any, tolerance: float) -> bool:
    import numpy as np

    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    bound = tolerance * np.maximum(1.0, np.abs(other))
    with np.errstate(invalid="ignore"):
        agree = (one == other) | (np.abs(one - other) <= bound) | (np.isnan(one) & np.isnan(other))
    return bool(agree.all())


def shown(value: Any) -> str:
    """Return a value as a message can hold it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
