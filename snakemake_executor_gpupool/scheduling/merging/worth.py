"""Whether it pays to take a short request through all models of its row at once. Pure.

Merging saves loads: one process has all models, where each would have one of its own, started once
the first job needs it. It also saves dispatches. In return this one process does one after the
other what several would do at the same time. Both ways are estimated::

    apart_s     a model is loaded once its first request comes, while the stages before go on;
                each has a process that computes, and all share those that read and write files
    merged_s    all models are loaded one after the other; one process computes, reads and writes,
                and only publishing is beside it

One that is loaded stays the quicker way for request after request, although in the end loading the
others would have paid. So what requests have waited for it adds up (``spent_s``), and once that is
as much as these loads, they are loaded: once loads and stages are measured, at most twice the best
possible time is spent.

Before anything was measured, a request is taken to be quick to compute, and the process that has
all models tries: it computes some items, and if one takes longer than pays
(:func:`item_limit_s`), the other requests go job by job.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Before anything was measured: from asking for a process until it has imported a tool.
START_S = 0.3
#: Before it was measured: what computing a job of a request takes, and reading and writing its
#: files.
COMPUTE_S, FILES_S = 0.0002, 0.0006
#: By how much longer that takes other processes, one frame for each file (bench/merging_grid.py).
APART = 1.6
#: What a dispatch takes beside its items.
DISPATCH_S = 0.002
#: Requests of a micro-batch of one model, and of a dispatch of merged ones, while there are more.
BATCH, FEW = 64, 16
#: Where all is loaded, merging has to take less than this share of the time.
CLEARLY = 0.7
#: Nothing is so slow that it would not be computed together.
NO_LIMIT_S = math.inf
#: The largest limit, and in how many steps it is sought.
MAX_LIMIT_S, STEPS = 1000.0, 30


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
        The same of the process that has all models, for the first one; 0: it is there.
    later_loads_s
        What loading the others takes it beyond that; None: not measured.
    compute_s, files_s
        What a job of a request takes that process: computing, and reading and writing. None: not
        measured.
    apart_files_s
        What reading and writing a job's files takes other processes; None: not measured.
    start_s
        What starting a process takes of that; it starts once for all models of a row.
    spent_s
        For how long requests have waited so far for other ones in that process, and not elsewhere.
    is_going_on
        Requests are merged now: to go another way has its price beside what is estimated.
    slots, processors, file_workers
        How many workers a model may have, how many processes can compute at the same time (0: any
        number), and how many read and write files.
    """

    requests: int
    loads_s: Sequence[float | None]
    merged_load_s: float | None
    later_loads_s: float | None = None
    compute_s: float | None = None
    files_s: float | None = None
    apart_files_s: float | None = None
    start_s: float = START_S
    spent_s: float = 0.0
    is_going_on: bool = False
    slots: int = 1
    processors: int = 0
    file_workers: int = 1

    @property
    def share(self) -> float:
        """How much of a later job's time is lost where one process does it, and not several."""
        stages = len(self.loads_s)
        apart = 1.0 / self.slots
        if self.processors:
            apart = max(apart, stages / self.processors)
        return max(stages / self.slots - apart, 0.0) / (stages - 1)

    @property
    def excess_s(self) -> float:
        """What a later job takes longer in the process that has all models, while others wait."""
        return self.share * _or(self.compute_s, COMPUTE_S)


@dataclass(frozen=True)
class Verdict:
    """Whether to merge, and why.

    Attributes
    ----------
    merged_s, apart_s
        What the requests take, estimated: merged, and job by job.
    """

    pays: bool
    merged_s: float
    apart_s: float
    requests: int

    @property
    def why(self) -> str:
        """What a user reads of it."""
        kind = "merged" if self.pays else "not merged"
        more = "requests" if self.requests != 1 else "request"
        return (
            f"{kind} because {self.requests} {more} would take about {self.merged_s:.2f} s merged, "
            f"loads included, and {self.apart_s:.2f} s job by job"
        )


def judge(case: Case) -> Verdict:
    """Return whether a request should be merged, by what is known now."""
    merged, apart = merged_s(case), apart_s(case)
    # Estimates are rough: where there is nothing to load, job by job is what a user would have.
    is_loaded = case.requests > 1 and not any(load_s != 0.0 for load_s in case.loads_s)
    margin_s = START_S if case.is_going_on and not is_loaded else 0.0
    pays = merged <= apart * (CLEARLY if is_loaded else 1.0) + margin_s
    return Verdict(pays, merged, apart, case.requests)


def item_limit_s(case: Case) -> float:
    """Return up to how many seconds of computing a job merging pays, all else as it is."""
    if case.compute_s is not None or case.requests == 1 or not case.share:
        return NO_LIMIT_S  # it is known, or costs nothing
    # Estimates are rough: one process's start is risked.
    low_s, high_s = START_S / ((case.requests - 1) * case.share), MAX_LIMIT_S
    if judge(dataclasses.replace(case, compute_s=high_s)).pays:
        return NO_LIMIT_S
    for _ in range(STEPS):
        middle_s = (low_s + high_s) / 2
        if judge(dataclasses.replace(case, compute_s=middle_s)).pays:
            low_s = middle_s
        else:
            high_s = middle_s
    return low_s


def merged_s(case: Case) -> float:
    """Return what requests take the process that has all models, its loads included."""
    stages, file_s = len(case.loads_s), _apart_files_s(case) / 2
    # It does less with files than others would: what it was measured to take beyond that is noise.
    files_s = min(_or(case.files_s, FILES_S), _apart_files_s(case))
    job_s = _or(case.compute_s, COMPUTE_S) + files_s
    # One process takes all of a dispatch.
    job_s /= max(min(case.slots, case.requests // BATCH), 1)
    few = min(case.requests, FEW)
    end_s = max(_merged_loads_s(case), few * file_s) + DISPATCH_S + stages * case.requests * job_s
    return end_s + few * file_s + case.spent_s  # the last ones are published


def apart_s(case: Case) -> float:
    """Return what requests take job by job, loads included."""
    compute_s, files_s = _or(case.compute_s, COMPUTE_S), _apart_files_s(case)
    compute_s, file_s = compute_s / case.slots, files_s / 2 / case.file_workers
    most = min(case.requests, BATCH)
    begin_s = end_s = 0.0
    for load_s in case.loads_s:
        # A model is asked for once the first job is read, and computes once the others are, too;
        # files are written before further ones are read.
        ready_s = begin_s + max(_or(load_s, START_S), most * file_s)
        # A model that was just loaded begins with one job.
        first = most if load_s == 0.0 else 1
        begin_s = ready_s + first * (compute_s + file_s) + DISPATCH_S
        rest_s = max(compute_s, file_s)
        end_s = max(begin_s + (case.requests - first) * rest_s, end_s + most * rest_s)
    jobs = len(case.loads_s) * case.requests
    end_s = max(end_s, jobs * 2 * file_s)
    if case.processors:
        end_s = max(end_s, jobs * (_or(case.compute_s, COMPUTE_S) + files_s) / case.processors)
    return end_s


def _merged_loads_s(case: Case) -> float:
    if case.merged_load_s == 0.0:
        return _or(case.later_loads_s, 0.0)
    # One that is there was loaded once, in that time or less.
    first_s, *more_s = (_or(case.merged_load_s, START_S) if s == 0.0 else s for s in case.loads_s)
    later_s = sum(max(load_s - case.start_s, 0.0) for load_s in more_s if load_s is not None)
    if case.later_loads_s is not None:
        later_s = min(later_s, case.later_loads_s)
    return _or(case.merged_load_s, _or(first_s, START_S)) + later_s


def _apart_files_s(case: Case) -> float:
    return _or(case.apart_files_s, APART * _or(case.files_s, FILES_S))


def _or(seconds: float | None, default_s: float) -> float:
    return default_s if seconds is None else seconds
