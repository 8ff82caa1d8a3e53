"""How runs, jobs and workers stand, and what stands on their timelines. Plain values.

Times are seconds since the epoch.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class RunState(enum.Enum):
    """How a run stands; ``value`` is what people read."""

    GOING = "going"
    ENDED = "ended"
    #: The pool itself failed: ``RunView.error`` says why.
    BROKEN = "broken"
    #: Its process is gone, and it has written no end.
    KILLED = "killed"


class JobState(enum.Enum):
    """How a served job stands, or a lease."""

    WAITING = "waiting"
    READING = "reading"
    #: Its items wait for workers, or are with one. Of a lease: it has its devices.
    RUNNING = "running"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"
    #: Not started, since another job had failed.
    WITHDRAWN = "withdrawn"
    #: The run came to its end before the job did.
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self in (JobState.DONE, JobState.FAILED, JobState.WITHDRAWN, JobState.LOST)


class Activity(enum.Enum):
    """What a worker process was at."""

    START = "start"
    IMPORT = "import"
    LOAD = "load"
    BATCH = "batch"
    MOVE = "move"
    #: It has its model and nothing to compute.
    IDLE = "idle"
    #: Its weights are in host memory; its devices may be another's.
    AWAY = "away"
    READ = "read"
    WRITE = "write"
    #: Outputs that a merged dispatch had staged are put in place.
    PUBLISH = "publish"
    #: It was told to end, and has not yet.
    STOP = "stop"


class Span(NamedTuple):
    """What a worker was at, from when to when.

    ``number`` is the batch of a ``BATCH``, the job of a ``READ``, ``WRITE`` or ``PUBLISH``, else
    None. ``to_s`` is None only in ``WorkerView.open_span``.
    """

    activity: Activity
    from_s: float
    to_s: float | None
    number: int | None = None

    def seconds(self, now_s: float) -> float:
        """Return how long it took; up to ``now_s`` if it goes on."""
        return max((now_s if self.to_s is None else self.to_s) - self.from_s, 0.0)


class Mark(NamedTuple):
    """Something that happened at one moment: an eviction, a death, a warning.

    ``kind`` is the name of its event; ``text`` is for people; ``devices`` are those concerned.
    """

    at_s: float
    kind: str
    text: str
    devices: tuple[str, ...] = ()
