"""What is known of a tool, its file processes, and the jobs that wait for one. Pure bookkeeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.request import ToolRef


@dataclass(eq=False)
class FileWorker:
    """One process that reads and writes.

    Attributes
    ----------
    node
        The machine that it is on; empty for the one where Snakemake is.
    active_s
        When it was started or last heard of, or was given work while it had none.
    """

    worker_id: str
    node: str = ""
    ready: bool = False
    in_flight: deque[int] = field(default_factory=deque)
    active_s: float = 0.0
    hung: bool = False


@dataclass(eq=False)
class ToolState:
    """What is known of a tool, and its jobs that wait for a process.

    Attributes
    ----------
    writes
        Jobs whose outputs any process may write.
    homes
        Jobs whose outputs are to be written on a node, by node; only of nodes that have some.
    resting
        Jobs that a process died with, and until when they wait before they are tried again.
    reading
        Jobs whose items are arriving.
    """

    ref: ToolRef
    name: str
    info: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    workers: dict[str, FileWorker] = field(default_factory=dict)
    reads: deque[int] = field(default_factory=deque)
    writes: deque[int] = field(default_factory=deque)
    homes: dict[str, deque[int]] = field(default_factory=dict)
    resting: list[tuple[float, int]] = field(default_factory=list)
    reading: set[int] = field(default_factory=set)
    _on: dict[str, list[FileWorker]] = field(default_factory=dict)

    @property
    def is_reading(self) -> bool:
        """Whether inputs are still being read."""
        return bool(self.reads or self.reading)

    # -- processes -----------------------------------------------------------------
    def add(self, worker: FileWorker) -> None:
        """Take a new process in."""
        self.workers[worker.worker_id] = worker
        self._on.setdefault(worker.node, []).append(worker)

    def remove(self, worker_id: str) -> FileWorker:
        """Forget a process that has ended, and return it."""
        worker = self.workers.pop(worker_id)
        self._on[worker.node].remove(worker)
        return worker

    def on(self, node: str) -> list[FileWorker]:
        """Return the processes on a node."""
        return self._on.get(node, [])

    # -- jobs that wait ------------------------------------------------------------
    def to_write(self, job_id: int, node: str) -> None:
        """Have a job's outputs written on a node; if that is empty, anywhere."""
        if node:
            self.homes.setdefault(node, deque()).append(job_id)
        else:
            self.writes.append(job_id)

    def to_write_first(self, job_id: int, node: str) -> None:
        """The same, before all others."""
        (self.homes.setdefault(node, deque()) if node else self.writes).appendleft(job_id)

    def rehome(self, nodes: Collection[str]) -> None:
        """Have jobs written anywhere whose node is not among these, or has no process."""
        for node in [node for node in self.homes if node not in nodes or not self.on(node)]:
            self.writes.extendleft(reversed(self.homes.pop(node)))

    def take_waiting(self) -> list[int]:
        """Return all jobs that wait or rest, and forget them."""
        homes = [job_id for queue in self.homes.values() for job_id in queue]
        waiting = [*self.reads, *self.writes, *homes, *(job_id for _, job_id in self.resting)]
        for queue in (self.reads, self.writes, self.homes, self.resting):
            queue.clear()
        return waiting
