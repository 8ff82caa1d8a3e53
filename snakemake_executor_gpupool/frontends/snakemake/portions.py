"""In which portions many jobs are handed over. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

#: How many jobs are prepared before they are submitted to the pool; of more, the first ones, so
#: that they are read meanwhile.
JOBS_AT_ONCE, FIRST_JOBS = 64, 16

JobT = TypeVar("JobT")


def portions(jobs: Sequence[JobT]) -> Iterator[Sequence[JobT]]:
    """Yield jobs as they are submitted, one portion after the other."""
    more = range(JOBS_AT_ONCE, len(jobs), JOBS_AT_ONCE)
    starts = [0, *([FIRST_JOBS] if more else []), *more]
    for start, end in itertools.pairwise([*starts, len(jobs)]):
        yield jobs[start:end]
