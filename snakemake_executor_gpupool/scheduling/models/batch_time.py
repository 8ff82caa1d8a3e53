"""How long a model takes, learnt from what its workers take. Pure.

A micro-batch takes a fixed time (a launch, a round trip) and time in proportion to its
cost. Both are fitted to the latest batches in a way that some odd ones cannot spoil: the
first one after loading, one during which the machine was busy with something else.
"""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from collections.abc import Sequence

#: Latest micro-batches that the fit rests on.
WINDOW = 32
#: Fewer say too little against what earlier runs measured.
MIN_SAMPLES = 5
#: The fit is renewed once this share of the latest batches is newer than it.
FIT_SHARE = 4
#: Batches whose costs differ by less than this factor do not tell fixed time from the rest.
SPREAD = 2.0


class Speed:
    """Seconds of a micro-batch as a function of its cost.

    Parameters
    ----------
    s_per_cost, fixed_s
        What earlier runs measured; None: nothing.

    References
    ----------
    P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", J. Am. Stat.
    Assoc. 63 (1968) 1379-1389: the median of the slopes between all pairs of observations,
    which holds while fewer than 29% of them are wrong.
    """

    def __init__(self, s_per_cost: float | None = None, fixed_s: float | None = None) -> None:
        self._s_per_cost = s_per_cost
        self._fixed_s = fixed_s or 0.0
        self._latest: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._is_stale = False
        self._unfitted = 0
        self._knew = s_per_cost is not None
        self._batches = self._items = 0

    @property
    def s_per_cost(self) -> float | None:
        """Seconds per unit of the tool's cost; None if nothing was measured."""
        self._fit_if_stale()
        return self._s_per_cost

    @property
    def fixed_s(self) -> float:
        """Seconds that a micro-batch takes however small it is."""
        self._fit_if_stale()
        return self._fixed_s

    def learn(self, cost: float, seconds: float, items: int = 1) -> None:
        """Take in what a micro-batch took."""
        # A fit may rest on the one before, and must not depend on whether anybody has looked.
        self._fit_if_stale()
        self._batches += 1
        self._items += items
        if cost > 0:
            self._latest.append((cost, seconds))
            # Half of the cost of a short micro-batch would be to fit all of them each time.
            self._unfitted += 1
            self._is_stale = self._is_stale or self._unfitted >= len(self._latest) // FIT_SHARE

    def seconds(self, cost: float, batches: float = 1.0) -> float | None:
        """Return what so much cost takes one worker; None if nothing was measured."""
        self._fit_if_stale()
        if self._s_per_cost is None:
            return None
        return self._s_per_cost * cost + self._fixed_s * batches

    def batches_of(self, items: int) -> float:
        """Return into how many micro-batches so many items were divided so far; at least one."""
        return max(items * self._batches / self._items, 1.0) if self._items else 1.0

    def _fit_if_stale(self) -> None:
        if self._is_stale and len(self._latest) >= (MIN_SAMPLES if self._knew else 1):
            self._is_stale, self._unfitted = False, 0
            self._s_per_cost, self._fixed_s = fit(self._latest, self._fixed_s)


def fit(
    observed: Sequence[tuple[float, float]] | deque[tuple[float, float]], fixed_s: float = 0.0
) -> tuple[float, float]:
    """Fit seconds per cost and fixed seconds to (cost, seconds) of micro-batches.

    Parameters
    ----------
    observed
        At least one, with positive costs.
    fixed_s
        What to take for the fixed part if the costs are too alike to tell.

    Returns
    -------
    tuple of float
        (seconds per unit of cost, fixed seconds), neither negative.
    """
    costs = [cost for cost, _ in observed]
    if len(costs) >= MIN_SAMPLES and max(costs) >= SPREAD * min(costs):
        pairs = itertools.combinations(observed, 2)
        slope = statistics.median([(t - s) / (d - c) for (c, s), (d, t) in pairs if c != d])
        offsets = [s - slope * cost for cost, s in observed]
        offset = statistics.median(offsets)
        # Wrong costs flatten the slope and so feign an offset, within the scatter they cause.
        scatter = statistics.median(abs(each - offset) for each in offsets)
        fixed_s = max(offset - scatter, 0.0)
    rate = statistics.median(max(s - fixed_s, 0.0) / cost for cost, s in observed)
    if rate > 0:
        return rate, fixed_s
    return statistics.median(s / cost for cost, s in observed), 0.0
