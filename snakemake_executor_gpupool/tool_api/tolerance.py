"""By how much two results of one item may differ and still count as the same.

A batch's shape decides in which order sums are done, and so how they are rounded: what an item
shares its batch with may change the last digits of its result. A tool says how many.

Worker side: standard library only, Python >= 3.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union


class Tolerance(NamedTuple):
    """The largest difference between two results of one item.

    Each array of a result, and each number that stands alone, is compared by itself: its numbers
    agree if they differ by at most ``absolute + relative * largest``, where ``largest`` is the
    largest absolute value in that array, of either result. (Not of the single number: a sum that
    is nearly zero is as far off as its neighbours.) Integers and texts must be equal.

    Attributes
    ----------
    absolute
        In the unit of the result.
    relative
        As a part of the largest number of the array.

    Examples
    --------
    >>> Tolerance(1e-6, 1e-5).bound(20.0)
    0.000201
    >>> Tolerance() == Tolerance(0.0, 0.0)  # to the bit
    True
    """

    absolute: float = 0.0
    relative: float = 0.0

    def bound(self, largest: float) -> float:
        """Return the largest difference in an array with this largest absolute value."""
        return self.absolute + self.relative * largest


#: What a tool may declare: one for all, one for each value of the param ``precision``, or none.
Tolerances = Union[Tolerance, Mapping[str, Tolerance], None]


def tolerance_of(own: Tolerances, precision: str) -> Optional[Tolerance]:  # noqa: UP045 - 3.9
    """Return a tool's tolerance at a precision; None: it is not known."""
    return own.get(precision) if isinstance(own, Mapping) else own


def why_no_tolerance(own: Any) -> str:
    """Return what is wrong with what a tool declares, in a few words; empty: nothing."""
    named = isinstance(own, Mapping)
    if named and not all(isinstance(name, str) for name in own):
        return "a mapping must be of values of the param precision, which are texts"
    for each in own.values() if named else [own]:
        if not named and each is None:
            continue
        if not isinstance(each, Tolerance):
            return "it must be Tolerance(absolute, relative), a dict of such by precision, or None"
        if not all(isinstance(n, (int, float)) and 0 <= n < math.inf for n in each):
            return "its numbers must be finite and not negative"
    return ""
