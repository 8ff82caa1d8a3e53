"""What is known of a tool, its file processes, and the jobs that wait for one. Pure bookkeeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.scheduling.files.queue import FileQueue, Level
from snakemake_executor_gpupool.wire.described import ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: Frames sent ahead to one process, while their files are less than so many bytes together.
FRAMES_AHEAD = 8
BYTES_AHEAD = 1024**2
#: So many to one that takes no longer than this for each: they take less time, together, than the
#: few of a slower one.
QUICK_S, QUICK_FRAMES_AHEAD = 5e-4, 32
#: Over so many frames it is measured.
MEASURED_FRAMES = 16
#: Its answers may be gathered while it has more than so many frames left; never longer than this.
FRAMES_LEFT, MAX_PAUSE_S = 8, 3e-3


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
    #: It was asked to end, and nothing is to be said of it once it has.
    is_ending: bool = False
    #: Another is to take its place as soon as it has nothing to do.
    is_stale: bool = False
    #: It has done something before there was a job for it, and has not said that this still holds.
    is_ahead: bool = False
    #: That it is asked.
    is_checked: bool = False
    #: What a frame has lately taken it while it had no lack of them; None: not measured.
    frame_s: float | None = None
    _sizes: deque[int] = field(default_factory=deque)
    _ahead_bytes: int = 0
    _measured: int = 0
    _measured_from_s: float = 0.0

    @property
    def frames_ahead(self) -> int:
        """How many frames it is sent ahead."""
        is_quick = self.frame_s is not None and self.frame_s <= QUICK_S
        return QUICK_FRAMES_AHEAD if is_quick else FRAMES_AHEAD

    @property
    def has_room(self) -> bool:
        """Whether it can be sent another frame."""
        is_free = len(self.in_flight) < self.frames_ahead and self._ahead_bytes < BYTES_AHEAD
        return self.ready and is_free and not (self.is_ending or self.is_stale or self.is_ahead)

    def pause_s(self, answers: int) -> float:
        """Return for how long its answers may be gathered, of which there are so many already."""
        left = len(self.in_flight) - answers - FRAMES_LEFT
        return min(max(left, 0) * (self.frame_s or 0.0), MAX_PAUSE_S)

    def sent(self, job_id: int, size_bytes: int, now_s: float) -> None:
        """It was sent a job whose files have about so many bytes."""
        if not self.in_flight:
            self.active_s = self._measured_from_s = now_s
            self._measured = 0
        self.in_flight.append(job_id)
        self._sizes.append(size_bytes)
        self._ahead_bytes += size_bytes

    def answered(self, now_s: float) -> None:
        """It has done the job that it was sent first."""
        self.in_flight.popleft()
        self._ahead_bytes -= self._sizes.popleft()
        self._measured += 1
        if self._measured >= MEASURED_FRAMES:
            self.frame_s = (now_s - self._measured_from_s) / self._measured
            self._measured, self._measured_from_s = 0, now_s


@dataclass(eq=False)
class FileWorkerPool:
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
    start_s
        What starting a process has taken, its imports included; None: none has started.
    questions
        Which model do jobs need that are not there yet? By the numbers of these questions.
    is_barred_ahead
        No further ones are asked.
    """

    ref: ToolRef
    name: str
    info: ToolInfo | None = None
    error: WorkerError | None = None
    workers: dict[str, FileWorker] = field(default_factory=dict)
    reads: FileQueue = field(default_factory=FileQueue)
    writes: FileQueue = field(default_factory=FileQueue)
    homes: dict[str, FileQueue] = field(default_factory=dict)
    resting: list[tuple[float, int]] = field(default_factory=list)
    reading: set[int] = field(default_factory=set)
    start_s: float | None = None
    questions: dict[int, Request] = field(default_factory=dict)
    is_barred_ahead: bool = False
    _on: dict[str, list[FileWorker]] = field(default_factory=dict)

    @property
    def is_reading(self) -> bool:
        """Whether inputs are still being read."""
        return bool(self.reads or self.reading)

    @property
    def has_work(self) -> bool:
        """Whether jobs wait for a process."""
        return bool(self.reads or self.writes or self.homes)

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
    def to_write(self, job_id: int, node: str, level: Level) -> None:
        """Have a job's outputs written on a node; if that is empty, anywhere."""
        self._writes_on(node).append(job_id, level)

    def to_write_first(self, job_id: int, node: str, level: Level) -> None:
        """The same, before all others of its level."""
        self._writes_on(node).appendleft(job_id, level)

    def _writes_on(self, node: str) -> FileQueue:
        return self.homes.setdefault(node, FileQueue()) if node else self.writes

    def rehome(self, nodes: Collection[str]) -> None:
        """Have jobs written anywhere whose node is not among these, or has no process."""
        for node in [node for node in self.homes if node not in nodes or not self.on(node)]:
            self.homes.pop(node).move_to(self.writes)

    def take_waiting(self) -> list[int]:
        """Return all jobs that wait or rest, and forget them."""
        homes = [job_id for queue in self.homes.values() for job_id in queue]
        waiting = [*self.reads, *self.writes, *homes, *(job_id for _, job_id in self.resting)]
        for each in (self.reads, self.writes, self.homes, self.resting):
            each.clear()
        return waiting


def pause_s(tools: Mapping[str, FileWorkerPool], senders: Iterable[str]) -> float:
    """Return for how long further answers may be gathered before the first are looked at.

    Their processes have enough to do meanwhile. Each look costs as much as what an answer leads to,
    and whoever shares the interpreter waits for it.

    Parameters
    ----------
    tools
        Of all file processes, by their names.
    senders
        Who has sent each of the answers that have come; one that is no file process waits for none.
    """
    least_s = MAX_PAUSE_S
    answers: dict[str, int] = {}
    for name in senders:
        answers[name] = answers.get(name, 0) + 1
    for name, count in answers.items():
        worker = tools[name].workers.get(name) if name in tools else None
        least_s = min(least_s, 0.0 if worker is None else worker.pause_s(count))
    return least_s if answers else 0.0
