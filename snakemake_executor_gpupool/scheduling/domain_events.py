"""What the parts of the scheduler tell each other: facts, in the order in which they came true.

No part calls one that stands above it. It appends what has happened to the queue, and the
scheduler reacts to it once the external event at hand has been handled, before it returns to
its caller; what the reactions append is handled in turn. So nothing is called while it is in
the middle of something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.allocator import AllocationEffect
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.requests import ToolRef


@dataclass(frozen=True)
class JobComputed:
    """The last result that a job waited for is there."""

    job_id: int


@dataclass(frozen=True)
class JobHasRoom:
    """More of a large job's items may become work."""

    job_id: int


@dataclass(frozen=True)
class WorkerStarted:
    """A model's worker is being started on a node; the name is empty on a single machine."""

    tool: ToolRef
    node: str


@dataclass(frozen=True)
class WorkerSettled:
    """A worker has its model on its devices, or has left them: its model can go on."""

    worker_id: str


@dataclass(frozen=True)
class ModelRefused:
    """No device will ever satisfy what a model asks for; its ``error`` says why."""

    model_key: Hashable


@dataclass(frozen=True)
class MergeEnded:
    """A merged run is neither waiting nor in flight any more, and may be unfinished."""

    item: WorkItem


@dataclass(frozen=True)
class LeaseDecided:
    """The allocator has decided about something that is not a worker: a lease."""

    decision: AllocationEffect


DomainEvent = (
    JobComputed
    | JobHasRoom
    | WorkerStarted
    | WorkerSettled
    | ModelRefused
    | MergeEnded
    | LeaseDecided
)


class DomainEvents:
    """The queue: any part appends, the scheduler alone drains."""

    def __init__(self) -> None:
        self._waiting: deque[DomainEvent] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, event: DomainEvent) -> None:
        """Add what has just happened."""
        self._waiting.append(event)

    def drain(self) -> Iterator[DomainEvent]:
        """Take events out, oldest first, until there is none: those too that come meanwhile."""
        while self._waiting:
            yield self._waiting.popleft()
