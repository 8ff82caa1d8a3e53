"""How long a model without work is kept. A plain value."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class IdleTime:
    """How long after its last work a model's worker is ended.

    Attributes
    ----------
    least_s
        At the earliest; infinite: never.
    loads
        For so many times what its model took to load, if that is longer: what is expensive to
        have again is kept for longer.
    most_s
        But no longer than this, unless ``least_s`` is.
    """

    least_s: float = math.inf
    loads: float = 0.0
    most_s: float = math.inf

    def of(self, load_s: float | None) -> float:
        """Return it for a model that took so long to load, in seconds; None: not measured."""
        return max(self.least_s, min(self.loads * (load_s or 0.0), self.most_s))


def idle_time(timeout_s: float | None) -> IdleTime:
    """Return the one that is the same for all models; None: all are kept."""
    return IdleTime() if timeout_s is None else IdleTime(timeout_s)
