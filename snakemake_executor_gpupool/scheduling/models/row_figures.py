"""What is measured of a row of models in one process, which takes merged requests. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sized
from dataclasses import dataclass, field
from statistics import median

from snakemake_executor_gpupool.scheduling.models.figures import Figures

#: Latest stages that the figures rest on.
WINDOW = 64
#: What a dispatch should take that has mostly files to read and write.
ROUND_S = 0.04
#: The share of computing in that at most.
MAX_COMPUTING = 0.25


@dataclass
class RowFigures:
    """What was measured, of a job of a request where nothing else is said.

    Attributes
    ----------
    later_loads_s
        What loading the models after the first took, all together; None: nothing was measured.
    spent_s
        For how long requests have waited for other ones in that process, and not elsewhere.
    compute_s, files_s
        What computing takes, and reading and writing the files; None: nothing was measured.
    """

    later_loads_s: float | None = None
    spent_s: float = 0.0
    compute_s: float | None = None
    files_s: float | None = None
    _batch_s: float | None = None
    #: Of the latest stages: computing a dispatch and a job of it, and a job's files.
    _latest: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @classmethod
    def recalled(cls, figures: Figures) -> RowFigures:
        """Start from what earlier runs measured."""
        compute_s, files_s = figures.job_compute_s, figures.job_files_s
        return cls(figures.later_loads_s, compute_s=compute_s, files_s=files_s)

    def stage_loaded(self, stage: int, seconds: float) -> None:
        """The model of a later stage was loaded."""
        self.later_loads_s = seconds + (self.later_loads_s or 0.0 if stage > 1 else 0.0)

    def stage_done(self, computed_s: float, files_s: float, requests: int) -> None:
        """One stage of so many requests has taken so long."""
        self._latest.append((computed_s, computed_s / requests, files_s / requests))
        self._batch_s, self.compute_s, self.files_s = map(median, zip(*self._latest, strict=True))

    def round_size(self, stages: int) -> int | None:
        """Return how many requests a dispatch should have; None: as many as fit.

        Where files take most of the time, few: others read and publish at the same time, and a
        dispatch of all would leave them nothing to do. So many that computing, even if it took the
        same however many there are, is a small part.
        """
        if not self.files_s or self._batch_s is None:
            return None
        brief = ROUND_S / (stages * self.files_s)
        return math.ceil(max(brief, self._batch_s / (MAX_COMPUTING * self.files_s)))

    def is_full(self, waiting: Sized, stages: int, most: float) -> bool:
        """Tell whether as many requests wait as a dispatch should have, ``most`` of which fit."""
        size = self.round_size(stages)
        return size is not None and len(waiting) >= min(size, max(most, 1))
