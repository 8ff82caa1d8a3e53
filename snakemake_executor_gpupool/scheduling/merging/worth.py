"""Whether it pays to take a short request through all models of its row at once. Pure.

Merging saves loads: one process has all models, where each would have one of its own, started once
the first job needs it. In return this one process does one after the other what several would do
at the same time::

    saved_s   loads of models that are not there; where the process for all has still to load
              these, too, no more than the starts of further processes
    costs_s   what a request takes longer x the requests that go the same way; another load of
              models that are there, where the process for all is not

One that is loaded stays the cheaper way for request after request, although in the end loading the
others would have paid. So what requests have waited for it adds up (``spent_s``), and once that is
as much as these loads, they are loaded: once loads and stages are measured, at most twice the best
possible time is spent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

#: Before anything was measured: from asking for a process until it has imported a tool.
START_S = 0.3
#: Before it was measured: what a job of a request takes the process that has all models.
STAGE_S = 0.001
#: The share of this in which other processes would have done as much as well.
SHARE = 0.25
#: Latest stages that the figures of a row rest on.
WINDOW = 64


@dataclass(frozen=True)
class Case:
    """What is known when a request could be merged.

    Attributes
    ----------
    requests
        How many go the same way: this one, those that wait, and those that are to come.
    loads_s
        For each stage, in how many seconds a process of its own model would be ready that had to
        be started now; 0: one is there, or comes in any case. None: never measured.
    merged_load_s
        The same of the process that has all models.
    stage_s
        What one of its jobs takes that process; None: not measured.
    spent_s
        For how long requests have waited so far for other ones in that process, and not elsewhere.
    """

    requests: int
    loads_s: Sequence[float | None]
    merged_load_s: float | None
    stage_s: float | None = None
    spent_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Whether to merge, and why.

    Attributes
    ----------
    saved_s, costs_s
        What merging saves and costs, estimated.
    """

    pays: bool
    saved_s: float
    costs_s: float
    requests: int

    @property
    def why(self) -> str:
        """What a user reads of it."""
        kind = "merged" if self.pays else "not merged"
        more = "requests" if self.requests != 1 else "request"
        return (
            f"{kind} because that saves {self.saved_s:.2f} s of loading and costs "
            f"{self.costs_s:.2f} s for {self.requests} {more}"
        )


def judge(case: Case) -> Verdict:
    """Return whether a request should be merged, by what is known now."""
    missing = [_or_start(load_s) for load_s in case.loads_s if load_s != 0.0]
    there = len(case.loads_s) - len(missing)
    excess_s = excess_of(case.stage_s) * (len(case.loads_s) - 1)
    # A lone request has all processes to itself, and is quicker by its dispatches.
    costs_s = excess_s * (case.requests - 1) + case.spent_s
    if case.merged_load_s == 0.0:
        saved_s = sum(missing)
    else:
        # What the one for all loads is no more than what is missing, and all in one process.
        saved_s = START_S * (len(missing) - 1) if missing else 0.0
        costs_s += _or_start(case.merged_load_s) * there / len(case.loads_s)
        if not missing:
            costs_s += _or_start(case.merged_load_s)
    return Verdict(saved_s >= costs_s, saved_s, costs_s, case.requests)


def _or_start(load_s: float | None) -> float:
    return START_S if load_s is None else max(load_s, START_S)


def excess_of(stage_s: float | None) -> float:
    """Return what a job takes longer in the process that has all models, while others wait."""
    return SHARE * (STAGE_S if stage_s is None else stage_s)


@dataclass
class RowFigures:
    """What was measured of a row of models in one process.

    Attributes
    ----------
    spent_s
        See :class:`Case`.
    """

    spent_s: float = 0.0
    _stages_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def stage_done(self, seconds: float, requests: int) -> None:
        """One stage of so many requests has taken so long."""
        self._stages_s.append(seconds / requests)

    def waited(self) -> None:
        """A job was ready before the stage that it is: one after the other is too slow for it."""
        self.spent_s += excess_of(self.stage_s)

    @property
    def stage_s(self) -> float | None:
        """What one job takes; None: nothing was measured."""
        return median(self._stages_s) if self._stages_s else None
