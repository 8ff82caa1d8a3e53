"""In which order jobs get a file process. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

#: (negated priority, 0 for a small job else 1): what goes before what.
Level = tuple[int, int]
#: Files of more bytes take longer than telling a process of them.
SMALL_BYTES = 64 * 1024
#: After so many small jobs in a row, one of the others of their priority is next.
MAX_PASSED = 16


class FileQueue:
    """Jobs that wait for a process to read or write their files.

    By priority; then small ones before others, so that a short request does not wait until all
    large files are read; then in order of arrival. At most ``MAX_PASSED`` small ones in a row
    go before others of their priority that wait.
    """

    def __init__(self) -> None:
        self._levels: dict[Level, deque[int]] = {}
        # By priority: how many small jobs have passed others since one of these was taken.
        self._passed: Counter[int] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return (job_id for level in sorted(self._levels) for job_id in self._levels[level])

    def append(self, job_id: int, level: Level) -> None:
        """Add a job behind those of its level."""
        self._levels.setdefault(level, deque()).append(job_id)
        self._count += 1

    def appendleft(self, job_id: int, level: Level) -> None:
        """Add a job before those of its level."""
        self._levels.setdefault(level, deque()).appendleft(job_id)
        self._count += 1

    def popleft(self) -> int:
        """Take the next job.

        Raises
        ------
        IndexError
            There is none.
        """
        if not self._count:
            raise IndexError("nothing waits")
        level = self._next_level() if len(self._levels) > 1 else next(iter(self._levels))
        jobs = self._levels[level]
        job_id = jobs.popleft()
        if not jobs:
            del self._levels[level]
        self._count -= 1
        return job_id

    def _next_level(self) -> Level:
        urgency, is_large = level = min(self._levels)
        others = (urgency, 1)
        if is_large or others not in self._levels:
            return level
        self._passed[urgency] += 1
        if self._passed[urgency] <= MAX_PASSED:
            return level
        del self._passed[urgency]
        return others

    def move_to(self, other: FileQueue) -> None:
        """Put all jobs before those of another queue."""
        for level, jobs in self._levels.items():
            for job_id in reversed(jobs):
                other.appendleft(job_id, level)
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._levels.clear()
        self._count = 0
