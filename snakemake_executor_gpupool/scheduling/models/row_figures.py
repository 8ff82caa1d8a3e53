"""What is measured of a row of models in one process, which takes merged requests. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from statistics import fmean, median

from snakemake_executor_gpupool.scheduling.models.figures import Figures

#: Latest stages that the figures rest on.
WINDOW = 64
#: What a dispatch should take that has mostly files to read and write.
ROUND_S = 0.04
#: So many requests it has at least, since each dispatch of a stage has its price, unless they take
#: longer than this.
MIN_ROUND, MAX_ROUND_S = 16, 0.2
#: Where all models are loaded within it, it is not worth doing much else meanwhile.
BRIEF_LOADS_S = 0.5
#: So many that wait are enough for a process that has nothing else to do.
IDLE_ROUND = 6
#: The share in that, at most, of what computing takes however few requests there are.
MAX_FIXED = 0.25
#: How much of computing is taken for that while all dispatches were of about one size.
FIXED_SHARE, ABOUT = 0.25, 1.5


@dataclass
class RowFigures:
    """What was measured, of a job of a request where nothing else is said.

    Attributes
    ----------
    later_loads_s
        What loading the models after the first took, all together; None: nothing was measured.
    first_load_s
        What loading the first one took, without what is imported only once; None: not measured.
    spent_s
        For how long requests have waited for other ones in that process, and not elsewhere.
    compute_s, files_s
        What computing takes, and reading and writing the files in the row's process, on the
        average of its stages; None: nothing was measured.
    lost_stages
        Those whose models could not be loaded side by side with the others.
    """

    later_loads_s: float | None = None
    first_load_s: float | None = None
    spent_s: float = 0.0
    compute_s: float | None = None
    files_s: float | None = None
    lost_stages: set[int] = field(default_factory=set)
    #: Of the latest stages: how many requests, and what computing them took.
    _latest: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    #: What computing a dispatch takes beside what its number of requests takes.
    _fixed_s: float = 0.0
    #: By stage: what the files of a request took lately.
    _files_s: dict[int, deque[float]] = field(default_factory=dict)
    #: Stages that requests have gone through by themselves.
    _begun: set[int] = field(default_factory=set)
    #: By stage: what loading its model took in this run.
    _loads_s: dict[int, float] = field(default_factory=dict)

    @classmethod
    def recalled(cls, figures: Figures) -> RowFigures:
        """Start from what earlier runs measured."""
        compute_s, files_s = figures.job_compute_s, figures.job_files_s
        return cls(figures.later_loads_s, compute_s=compute_s, files_s=files_s)

    def first_loaded(self, seconds: float, imported_s: float | None) -> None:
        """The model of the first stage was loaded, what is imported for all of them included."""
        if imported_s is not None:
            self.first_load_s = max(seconds - imported_s, 0.0)

    def stage_loaded(self, stage: int, seconds: float) -> None:
        """The model of a later stage was loaded."""
        self.later_loads_s = seconds + (self.later_loads_s or 0.0 if stage > 1 else 0.0)
        self._loads_s[stage] = seconds

    def loads_s(self, stages: Iterable[int], later: int, load_s: float) -> float:
        """Estimate what loading the models of some later stages takes.

        Before one of them was measured, in this run or an earlier one, they are like the first.

        Parameters
        ----------
        later
            How many later stages the row has.
        load_s
            What the first model took from asking for a process, if no more is known of it.
        """
        first_s = load_s if self.first_load_s is None else self.first_load_s
        each_s = first_s if self.later_loads_s is None else self.later_loads_s / later
        if self._loads_s:
            each_s = fmean(self._loads_s.values())
        return sum(self._loads_s.get(stage, each_s) for stage in stages)

    def stage_alone(self, stage: int, computed_s: float, requests: int) -> None:
        """Computing one stage of so many requests has taken so long, with no files."""
        if stage in self._begun:
            self._computed(computed_s, requests)
        self._begun.add(stage)  # it took what is done only once, too

    def _computed(self, computed_s: float, requests: int) -> None:
        self._latest.append((requests, computed_s))
        self.compute_s = median(computed_s / number for number, computed_s in self._latest)
        # Asked for with each request that is read, and only here another one.
        self._fixed_s = self._fixed_part_s()

    def stage_done(
        self, stage: int, stages: int, computed_s: float, files_s: float, requests: int
    ) -> None:
        """One of so many stages of so many requests has taken so long, files included."""
        self._files_s.setdefault(stage, deque(maxlen=WINDOW)).append(files_s / requests)
        if not stage:
            return  # computing took what is done only once, too
        self._computed(computed_s, requests)
        known_s = {number: median(times_s) for number, times_s in self._files_s.items()}
        # The last stage is the only one without outputs.
        written_s = [s for number, s in known_s.items() if number < stages - 1]
        last_s = known_s.get(stages - 1, 0.0)
        self.files_s = (fmean(written_s or [last_s]) * (stages - 1) + last_s) / stages

    @property
    def fixed_s(self) -> float:
        """What computing a dispatch takes beside what its number of requests takes."""
        return self._fixed_s

    def _fixed_part_s(self) -> float:
        middle = fmean(number for number, _ in self._latest)
        few = [(n, computed_s) for n, computed_s in self._latest if n <= middle]
        many = [(n, computed_s) for n, computed_s in self._latest if n > middle]
        (number, computed_s), (more, more_s) = map(_middle, (few, many or few))
        if more < ABOUT * number:
            return FIXED_SHARE * median(computed_s for _, computed_s in self._latest)
        each_s = max((more_s - computed_s) / (more - number), 0.0)
        return max(computed_s - each_s * number, 0.0)

    def round_size(
        self, stages: int, is_idle: bool = False, load_s: float | None = None
    ) -> int | None:
        """Return how many requests a dispatch should have; None: as many as fit.

        Where files take most of the time, few: others read and publish at the same time, and a
        dispatch of all would leave them nothing to do. So many that what each dispatch takes to
        compute, however few there are, is a small part.

        Parameters
        ----------
        is_idle
            Whether the process has nothing else to do: then fewer are enough to begin with, while
            further ones are read.
        load_s
            What loading the first model took. Before anything is measured a dispatch takes all, so
            that there is something to read and write while the further models are loaded. Where
            loading all is known to be brief, a few requests are to be measured first.
        """
        if not self.files_s or not self._latest:
            if load_s is None or self.later_loads_s is None:
                return None
            return MIN_ROUND if load_s + self.later_loads_s <= BRIEF_LOADS_S else None
        request_s = stages * self.files_s
        brief = max(ROUND_S / request_s, min(MIN_ROUND, MAX_ROUND_S / request_s))
        if is_idle:
            brief = min(brief, IDLE_ROUND)
        return math.ceil(max(brief, self.fixed_s / (MAX_FIXED * self.files_s)))

    def is_full(
        self,
        waiting: Sized,
        stages: int,
        most: float,
        is_idle: bool = False,
        load_s: float | None = None,
    ) -> bool:
        """Tell whether as many requests wait as a dispatch should have, ``most`` of which fit."""
        size = self.round_size(stages, is_idle, load_s)
        return size is not None and len(waiting) >= min(size, max(most, 1))


def _middle(dispatches: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return of how many requests dispatches were in the middle, and what computing them took."""
    numbers, times_s = zip(*dispatches, strict=True)
    return fmean(numbers), median(times_s)
