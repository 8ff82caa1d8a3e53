"""Which jobs of the lane start, and when: within threads and memory, without starvation."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: How many later jobs may overtake one that does not fit the free threads.
MAX_OVERTAKES = 32


@dataclass(eq=False)
class LaneJob:
    """A job in the lane.

    Attributes
    ----------
    threads
        How much of the budget it takes; never more than all of it.
    environment
        Variables for a process of its own, beyond ours; empty: it needs none.
    done
        Called on a thread of the lane with None, or with the error.
    priority
        Waiting jobs start in order of priority, the highest first.
    starts
        Called on a thread of the lane before the job starts.
    withdrawn
        Called instead of ``done`` if the job is not started because nothing new may start. None:
        the job continues something that has begun, and starts all the same.
    memory_mb
        How much of the memory it takes; at most all of it.
    limit_s
        Seconds after which its process is ended, which makes it fail; None: it may take any time.
    """

    job: Any
    threads: int
    done: Callable[[BaseException | None], None]
    environment: dict[str, str] = field(default_factory=dict)
    #: Runs its command on another machine and returns the exit code; None: it runs here.
    elsewhere: Callable[[str], int | None] | None = None
    #: The same for a shell command without a Snakemake around it; None: it needs one.
    shell_elsewhere: Callable[[Any], int | None] | None = None
    priority: float = 0
    starts: Callable[[], None] = lambda: None
    withdrawn: Callable[[], None] | None = None
    memory_mb: int = 0
    limit_s: float | None = None
    overtaken: int = 0


class Admission:
    """Starts jobs in order as room becomes free; small ones may overtake a large one at first.

    Parameters
    ----------
    budget
        How many threads there are.
    memory_mb
        How much memory; None: it is not counted.
    """

    def __init__(self, budget: int, memory_mb: int | None = None) -> None:
        self.budget = budget
        self.free = budget
        self.free_mb = memory_mb
        self._waiting: deque[LaneJob] = deque()

    def add(self, job: LaneJob) -> None:
        """Queue a job behind those of its own priority, before those of a lower one."""
        if not self._waiting or self._waiting[-1].priority >= job.priority:
            self._waiting.append(job)
        else:
            bisect.insort(self._waiting, job, key=lambda waiting: -waiting.priority)

    def release(self, job: LaneJob) -> None:
        """Give back what a finished job took."""
        self.free += job.threads
        if self.free_mb is not None:
            self.free_mb += job.memory_mb

    def _fits(self, job: LaneJob) -> bool:
        has_memory = self.free_mb is None or job.memory_mb <= self.free_mb
        return job.threads <= self.free and has_memory

    def admit(self) -> list[LaneJob]:
        """Return the jobs that start now."""
        started: list[LaneJob] = []
        kept: deque[LaneJob] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            if self._fits(job):
                self.free -= job.threads
                if self.free_mb is not None:
                    self.free_mb -= job.memory_mb
                started.append(job)
                for passed in kept:
                    passed.overtaken += 1
                continue
            kept.append(job)
            # No threads are left, or the first one has been overtaken often enough.
            if self.free == 0 or kept[0].overtaken >= MAX_OVERTAKES:
                break
        self._waiting = kept + self._waiting
        return started

    def take_new(self) -> list[LaneJob]:
        """Remove and return the jobs that do not continue something that has begun."""
        new = [job for job in self._waiting if job.withdrawn is not None]
        self._waiting = deque(job for job in self._waiting if job.withdrawn is None)
        return new

    def clear(self) -> list[LaneJob]:
        """Remove and return all waiting jobs."""
        waiting, self._waiting = list(self._waiting), deque()
        return waiting
