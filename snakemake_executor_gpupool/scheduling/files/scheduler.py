"""Reading inputs and writing outputs, beside the devices. Pure decisions.

Each tool has processes of its own that never load the model: they turn a job's files
into items and results into files while the devices compute. Few frames are sent ahead,
so that a finished job's outputs do not queue behind inputs that nobody needs yet.

On several machines outputs are written where most of their results were computed, whose
files that machine need not fetch; inputs are read anywhere. A node that is not there any
longer, or has no process, keeps nothing waiting: others write instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import natural_key
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.effects import (
    Outbox,
    PublishJob,
    ReadJob,
    StartWorker,
    StopWorker,
    Unstage,
    WriteJob,
)
from snakemake_executor_gpupool.scheduling.files.ahead import AheadOfJobs, question
from snakemake_executor_gpupool.scheduling.files.deaths import FileDeaths
from snakemake_executor_gpupool.scheduling.files.queue import FileQueue
from snakemake_executor_gpupool.scheduling.files.worker_pool import (
    FRAMES_AHEAD,
    FileWorker,
    FileWorkerPool,
    pause_s,
)
from snakemake_executor_gpupool.scheduling.job_state import JobPhase, JobState, explain
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import StagedOutputs
from snakemake_executor_gpupool.wire.described import ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.frames import blobs_size
from snakemake_executor_gpupool.wire.requests import Request, ToolRef


class FileScheduler:
    """Sends each tool's jobs to its file processes.

    Parameters
    ----------
    allocator
        Knows which machines may be given work; on a single one, that its name is empty.
    max_workers
        How many file processes a tool may have on each node; a further one is started when
        the others have more work queued than they are sent ahead.
    """

    def __init__(
        self,
        jobs: JobTable,
        outbox: Outbox,
        blame_tracker: BlameTracker,
        allocator: Allocator,
        max_workers: int = 1,
    ) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self._blame_tracker = blame_tracker
        self._allocator = allocator
        self._max_workers = max_workers
        self._ahead = AheadOfJobs(outbox)
        self._deaths = FileDeaths(jobs, outbox, blame_tracker, self._ahead, self.give_up_staged)
        self._tools: dict[ToolRef, FileWorkerPool] = {}
        self._tool_of: dict[str, FileWorkerPool] = {}
        self._numbers = 0

    def tool(self, ref: ToolRef) -> FileWorkerPool:
        """Return a tool's state, new if it was never asked for."""
        if ref not in self._tools:
            self._tools[ref] = FileWorkerPool(ref, self._short_name(ref))
        return self._tools[ref]

    def _short_name(self, ref: ToolRef) -> str:
        name = str(ref).rpartition(":")[2].rpartition("/")[2]
        taken = {state.name for state in self._tools.values()}
        others = (f"{name}~{number}" for number in itertools.count(2))
        return next(each for each in itertools.chain([name], others) if each not in taken)

    def known(self, ref: ToolRef) -> FileWorkerPool | None:
        """Return a tool's state; None if it was never asked for, or is forgotten."""
        return self._tools.get(ref)

    def forget(self, ref: ToolRef) -> None:
        """Forget a tool that has no process and no job."""
        tool = self._tools.pop(ref, None)
        if tool is not None:
            self._blame_tracker.forget(tool)

    def writer_of(self, job: JobState) -> FileWorker | None:
        """Return the process that was sent what a job has to write; None: none was."""
        if job.phase not in (JobPhase.WRITING, JobPhase.PUBLISHING):
            return None
        tool = self._tools[job.request.tool if job.staged is None else job.staged.tool]
        job_id = job.request.job_id
        return next((w for w in tool.workers.values() if job_id in w.in_flight), None)

    def owns(self, worker_id: str) -> bool:
        """Tell whether a process is one for files."""
        return worker_id in self._tool_of

    def worker(self, worker_id: str) -> FileWorker:
        """Return a file process."""
        return self._tool_of[worker_id].workers[worker_id]

    def on_hosts(self, hosts: Collection[str]) -> list[FileWorker]:
        """Return the processes on these machines."""
        tools = self._tools.values()
        return [worker for tool in tools for host in sorted(hosts) for worker in tool.on(host)]

    def tool_of(self, worker_id: str) -> FileWorkerPool:
        """Return the tool that a file process serves."""
        return self._tool_of[worker_id]

    # -- work in ---------------------------------------------------------------
    def ask(self, number: int, request: Request, now_s: float) -> None:
        """Have a process say which model a job will need that is not there yet."""
        tool = self.tool(request.tool)
        tool.questions[number] = request
        self._send(tool, now_s)

    def read(self, job: JobState, now_s: float) -> None:
        """Have a job's inputs read, unless nothing new is to be started."""
        if self._jobs.is_winding_down and not job.has_begun:
            self._jobs.withdraw(job)
            return
        tool = self.tool(job.request.tool)
        if tool.error is not None:
            self._jobs.fail(job, explain(job, tool.error, f"tool {tool.ref}"), tool.error)
            return
        tool.reads.append(job.request.job_id, job.read_level)
        self._send(tool, now_s)

    def write(self, job: JobState, now_s: float) -> None:
        """Have a job's outputs written."""
        job.phase = JobPhase.WRITING
        tool = self.tool(job.request.tool)
        tool.to_write(job.request.job_id, job.home, job.write_level)
        self._send(tool, now_s)

    def publish(self, job: JobState, staged: StagedOutputs, now_s: float) -> None:
        """Have outputs put in place that a merged run has staged, or written that it has made."""
        job.staged = staged
        job.phase = JobPhase.PUBLISHING
        tool = self.tool(staged.tool)
        tool.to_write(job.request.job_id, job.home, job.write_level)
        self._send(tool, now_s)

    def give_up_staged(self, job: JobState, now_s: float) -> None:
        """Have a job read the ordinary way: what was staged is not its own, or not there."""
        if job.staged is not None:
            self._outbox.put(Unstage.of(job.staged))
        self._jobs.let_go_of_staged(job)
        job.phase = JobPhase.WAITING
        self.read(job, now_s)

    def renew(self, ref: ToolRef) -> None:
        """Have a tool's processes end once they have nothing to do, and others take their place."""
        tool = self._tools.get(ref)
        for worker in tool.workers.values() if tool is not None else ():
            worker.is_stale = True
            self._end_stale(worker)

    def _end_stale(self, worker: FileWorker) -> None:
        if worker.is_stale:
            self.end_idle(worker, "it knows code that has changed")

    def end_idle(self, worker: FileWorker, why: str) -> None:
        """End a process, unless it has something to do."""
        if not worker.in_flight and not worker.is_ending:
            worker.is_ending = True
            self._outbox.put(StopWorker(worker.worker_id, why))

    def foresee(self, ref: ToolRef, node: str, now_s: float) -> None:
        """Have a process ready on a node when the first results come from there."""
        tool = self._tools.get(ref)
        if not node or tool is None or not tool.workers or tool.error is not None:
            return  # one machine; or a tool that is called, not one that writes files
        if not tool.on(node) and node in self._allocator.hosts and self._may_start(tool, now_s):
            self._start(tool, node, now_s)

    def _send(self, tool: FileWorkerPool, now_s: float) -> None:
        if tool.has_work:
            self._ahead.check(tool.workers.values())
        if tool.homes:
            self._send_home(tool, now_s)
        waiting = len(tool.reads) + len(tool.writes)
        if not waiting and not tool.questions:
            return
        nodes = self._allocator.hosts
        workers = [worker for worker in tool.workers.values() if worker.node in nodes]
        if self._wants_worker(tool, workers, max(waiting, 1), len(nodes), now_s):
            self._start(tool, self._emptiest(tool, nodes), now_s, is_ahead=not waiting)
        self._fill(tool, workers, (tool.writes, tool.reads), now_s)
        self._ahead.ask(tool, workers, now_s)

    def _send_home(self, tool: FileWorkerPool, now_s: float) -> None:
        """Send writes to their nodes; what cannot be done there is left to any."""
        nodes = self._allocator.hosts
        for node, queue in tool.homes.items():
            if node in nodes and self._wants_worker(tool, tool.on(node), len(queue), 1, now_s):
                self._start(tool, node, now_s)
        tool.rehome(nodes)
        for node, queue in list(tool.homes.items()):
            self._fill(tool, tool.on(node), (queue,), now_s)
            if not queue:
                del tool.homes[node]

    def _fill(
        self,
        tool: FileWorkerPool,
        workers: list[FileWorker],
        queues: Iterable[FileQueue],
        now_s: float,
    ) -> None:
        """Send what waits to processes with room, those with the least to do first."""
        if len(workers) > 1:
            workers = sorted(workers, key=lambda w: len(w.in_flight))
        for worker in workers:
            while worker.has_room:
                job = self._next(queues)
                if job is None:
                    return
                size_bytes = self._send_job(tool, worker.worker_id, job)
                worker.sent(job.request.job_id, size_bytes, now_s)

    def _wants_worker(
        self,
        tool: FileWorkerPool,
        workers: Collection[FileWorker],
        waiting: int,
        nodes: int,
        now_s: float,
    ) -> bool:
        if not waiting or len(workers) >= self._max_workers * nodes:
            return False
        everyone_ready = all(worker.ready for worker in workers)
        is_too_much = everyone_ready and waiting > FRAMES_AHEAD * len(workers)
        return (not workers or is_too_much) and self._may_start(tool, now_s)

    def _may_start(self, tool: FileWorkerPool, now_s: float) -> bool:
        """Whether none has died lately while it started."""
        return self._blame_tracker.next_try_s(tool) <= now_s

    def _emptiest(self, tool: FileWorkerPool, nodes: Collection[str]) -> str:
        """Return the node with the fewest file processes that may have one more of this tool."""
        if len(nodes) == 1:
            return next(iter(nodes))
        counts = Counter(
            worker.node for state in self._tools.values() for worker in state.workers.values()
        )
        free = [node for node in nodes if len(tool.on(node)) < self._max_workers]
        return min(free, key=lambda node: (counts[node], natural_key(node)))

    def _start(
        self, tool: FileWorkerPool, node: str, now_s: float, *, is_ahead: bool = False
    ) -> None:
        self._numbers += 1
        worker_id = f"{tool.name}.files{self._numbers}"
        worker = FileWorker(worker_id, node, active_s=now_s, is_ahead=is_ahead)
        tool.add(worker)
        self._tool_of[worker.worker_id] = tool
        self._outbox.put(StartWorker(worker_id, tool.ref, node=node, is_ahead=is_ahead))

    def _next(self, queues: Iterable[FileQueue]) -> JobState | None:
        for queue in queues:
            while queue:
                job = self._jobs.get(queue.popleft())
                if job is not None:
                    return job
        return None

    def _send_job(self, tool: FileWorkerPool, worker_id: str, job: JobState) -> int:
        """Send a job to a process; return how many bytes its files have, as far as known."""
        if job.phase is JobPhase.WRITING:
            effect = write_effect(worker_id, job)
            self._outbox.put(effect)
            settled_bytes = sum(piece.size_bytes for piece in effect.settled)
            return settled_bytes + blobs_size(effect.blobs)
        if job.phase is JobPhase.PUBLISHING:
            assert job.staged is not None
            self._outbox.put(PublishJob(worker_id, job.request, job.staged))
            unwritten = job.staged.unwritten
            return 0 if unwritten is None else blobs_size(unwritten.blobs)
        job.phase = JobPhase.READING
        tool.reading.add(job.request.job_id)
        self._outbox.put(ReadJob(worker_id, job.request))
        return job.request.input_bytes

    # -- answers -----------------------------------------------------------------
    def tool_ready(self, worker_id: str, info: ToolInfo, now_s: float) -> None:
        """A process has imported its tool."""
        tool = self._tool_of[worker_id]
        tool.info = info
        tool.start_s = now_s - tool.workers[worker_id].active_s
        self._blame_tracker.exonerate(tool)
        tool.workers[worker_id].ready = True
        self._send(tool, now_s)

    def tool_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """A tool cannot be imported: all its jobs fail, the first with the whole story."""
        tool = self._tool_of[worker_id]
        if tool.workers[worker_id].is_ahead:
            tool.workers[worker_id].is_ending = True
            self._ahead.bar(tool)
            return
        self._deaths.give_up(tool, error, now_s)

    def answered(self, worker_id: str, job_id: int, now_s: float) -> FileWorkerPool:
        """A process has finished with a job: it gets the next one."""
        tool = self._tool_of[worker_id]
        self.heard_of(worker_id, now_s)
        worker = tool.workers[worker_id]
        if worker.in_flight and worker.in_flight[0] == job_id:
            worker.answered(now_s)
            self._end_stale(worker)
            tool.reading.discard(job_id)
            if job_id >= 0:
                self._outbox.note("file_done", worker=worker_id, job_id=job_id)
                self._blame_tracker.exonerate(self._jobs.get(job_id))
        return tool

    def described(self, worker_id: str, number: int, now_s: float) -> None:
        """A process has answered a question."""
        self.answered(worker_id, question(number), now_s)
        self.send_more(self._tool_of[worker_id], now_s)

    def checked(self, worker_id: str, *, holds: bool, now_s: float) -> None:
        """A process has said whether it may have jobs although it was started before there were."""
        tool = self._tool_of[worker_id]
        self._ahead.checked(tool, tool.workers[worker_id], holds=holds)
        self._send(tool, now_s)

    def heard_of(self, worker_id: str, now_s: float) -> None:
        """A process has sent something: it is not hung."""
        self._tool_of[worker_id].workers[worker_id].active_s = now_s

    def pause_s(self, senders: Iterable[str]) -> float:
        """Return for how long further answers may be gathered; ``senders``: of those there are."""
        return pause_s(self._tool_of, senders)

    def next_wake_s(self, now_s: float) -> float:
        """Return when a tool whose process has died may next be tried; else infinity."""
        if not self._blame_tracker.has_suspects:
            return float("inf")
        tools = self._tools.values()
        tries_s = [*map(self._blame_tracker.next_try_s, tools)]
        tries_s += [until_s for tool in tools for until_s, _ in tool.resting]
        return min((try_s for try_s in tries_s if try_s > now_s), default=float("inf"))

    def wake(self, now_s: float) -> None:
        """Try again what has waited for that."""
        for tool in self._tools.values() if self._blame_tracker.has_suspects else ():
            self._deaths.wake_resting(tool, now_s)
            self._send(tool, now_s)

    def tick(self, now_s: float) -> None:
        """End processes that hang: on a pipe that nobody writes to, a file system that is gone."""
        self._deaths.forget_suspects()
        for tool in self._tools.values():
            self._deaths.wake_resting(tool, now_s)
            self._send(tool, now_s)
            self._deaths.end_hung(tool, now_s)

    def send_more(self, tool: FileWorkerPool, now_s: float) -> None:
        """Hand out what waits, now that a process has room."""
        self._send(tool, now_s)

    def died(self, worker_id: str, reason: str, now_s: float, *, expected: bool) -> None:
        """A process is gone: its job in flight is suspect, those queued behind it are not."""
        tool = self._tool_of.pop(worker_id)
        worker = tool.remove(worker_id)
        expected = (expected and not worker.hung) or worker.is_ending
        if not expected and tool.error is None:
            self._deaths.blame(tool, worker, reason, now_s)
        # In reverse, so that they wait in the order in which they were sent.
        for job_id in reversed(worker.in_flight):
            tool.reading.discard(job_id)
            job = self._jobs.get(job_id)
            if job is not None:
                self._deaths.take_back(tool, job, reason, now_s)
        self._send(tool, now_s)


def write_effect(worker_id: str, job: JobState) -> WriteJob:
    """Gather a job's results: each distinct one once, and for each item which it is."""
    order, blobs = job.gather()
    distinct = job.distinct() if job.settled else len(blobs)
    how = tuple(sorted(job.workers)), distinct, tuple(job.settled)
    return WriteJob(worker_id, job.request, order, job.names, blobs, *how)
