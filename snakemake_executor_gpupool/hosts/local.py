"""This machine: its worker processes, their frames and their ends."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.memory_release import MemoryRelease
from snakemake_executor_gpupool.errors import FrameError, WorkerStartError
from snakemake_executor_gpupool.hosts.base import (
    GRACE_S,
    Carried,
    FrameArrived,
    HostEvent,
    WorkerForked,
    WorkerGone,
)
from snakemake_executor_gpupool.hosts.containers import marked_by, why_not_as_read
from snakemake_executor_gpupool.hosts.forked import ForkedProcess, ForkServer
from snakemake_executor_gpupool.hosts.launcher import Launcher
from snakemake_executor_gpupool.hosts.process import WorkerProcess
from snakemake_executor_gpupool.hosts.reaper import PROCESS_VARIABLE, Reaper
from snakemake_executor_gpupool.hosts.running import End, Running, obituary
from snakemake_executor_gpupool.hosts.time_limit import started_by
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.requests import ToolRef

#: How often processes that are ending are polled.
ENDING_POLL_S = 0.01
#: How often all are polled where the kernel cannot notify us of their ends.
HANDLELESS_POLL_S = 0.25
#: Upper bound of one wait.
MAX_POLL_S = 3600.0


class LocalHost:
    """This machine's worker processes.

    Parameters
    ----------
    paths
        Where logs and large blobs go.
    threads
        How many threads a worker that computes on the CPU may use.
    memory_release
        Finds out whether the device memory of a dead process is free.
    clock_s, launch
        Returns the time, and starts a process; tests pass their own.
    """

    def __init__(
        self,
        paths: RunPaths,
        threads: int,
        memory_release: MemoryRelease | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        launch: Callable[..., WorkerProcess] = WorkerProcess,
    ) -> None:
        self._clock_s = clock_s
        self.launcher = Launcher(paths, threads, launch)
        self._memory_release = memory_release or MemoryRelease()
        self._running: dict[str, Running] = {}
        self._servers: set[ForkServer] = set()
        #: Those to be looked at again and again: they are ending, or their ends cannot be heard of.
        self._looked_after: dict[str, None] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._reaper = Reaper()
        for directory in paths.temporary:
            self._reaper.remove_at_end(directory)
        let_go_in_children(self)
        self._events: list[HostEvent] = []
        self.carried = Carried()  # stays empty: there is no other machine
        self._unsent: set[str] = set()

    def __len__(self) -> int:
        return len(self._running)

    def wake(self) -> None:
        """Make a waiting :meth:`poll` return; callable from any thread and signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"x")

    def pids(self) -> list[int]:
        """Return the ids of all worker processes."""
        there = [(r.process.pid, r.tool.container) for r in self._running.values()]
        # What is in a container is another process than the one that was started.
        contained = [pid for pid, container in there if pid is not None and container is not None]
        inside = (process.pid for pid in contained for process in started_by(pid))
        return [*(pid for pid, _ in there if pid is not None), *inside]

    def watch(self, group: int, mark: str = "") -> None:
        """Have the reaper kill a process group if this process is killed."""
        self._reaper.watch(group, mark)

    def forget(self, group: int) -> None:
        """Note that a watched process group has ended."""
        self._reaper.forget(group)

    # -- workers -------------------------------------------------------------------
    def start(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        node: str | None = None,
        *,
        is_ahead: bool = False,
    ) -> int | None:
        """Start a process for a tool and return its id; None: it failed, or is forked later on.

        A failed start is reported by :meth:`poll` as :class:`WorkerGone`. ``node`` is ignored:
        there is only this machine.
        """
        self._memory_release.arrived(worker_id, devices)
        try:
            process, mark, first = self.launcher.launch(worker_id, tool, devices, is_ahead=is_ahead)
        except WorkerStartError as error:
            self._events.append(WorkerGone(worker_id, str(error), expected=False))
            return None
        is_its = marked_by(PROCESS_VARIABLE, mark)
        running = self._running[worker_id] = Running(process, devices, tool, is_its, mark)
        self._selector.register(process.socket, selectors.EVENT_READ, worker_id)
        if isinstance(process, ForkedProcess) and process.server not in self._servers:
            self._servers.add(process.server)
            self._reaper.watch(process.server.process.pid, process.server.mark)
            self._selector.register(process.server.socket, selectors.EVENT_READ, process.server)
        if process.pid is not None:
            self._is_there(worker_id, running, process.pid)
        self.send(worker_id, first.meta)
        return process.pid

    def _is_there(self, worker_id: str, running: Running, pid: int) -> None:
        """See to a process's end, and that it is noticed."""
        self._reaper.watch(pid, running.mark)
        if running.process.handle >= 0:
            self._selector.register(running.process.handle, selectors.EVENT_READ, End(worker_id))
        else:
            self._looked_after[worker_id] = None

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Queue a frame; the next :meth:`flush` sends it with others for the same worker.

        A frame for a worker that has ended is dropped: its end is reported anyway.
        """
        running = self._running.get(worker_id)
        if running is not None:
            running.process.queue(dict(meta), blobs)
            self._unsent.add(worker_id)

    def flush(self) -> None:
        """Hand queued frames to the operating system."""
        for worker_id in self._unsent:
            running = self._running.get(worker_id)
            if running is not None:
                running.process.flush()
                self._listen(worker_id, running)
        self._unsent.clear()

    def _listen(self, worker_id: str, running: Running) -> None:
        wants_write = running.process.wants_write
        if wants_write == running.is_watched_for_room:
            return
        running.is_watched_for_room = wants_write
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants_write else 0)
        with contextlib.suppress(KeyError):  # its channel has ended
            self._selector.modify(running.process.socket, events, worker_id)

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        """Ask a worker to end, and escalate to SIGTERM and SIGKILL until it does.

        Parameters
        ----------
        force
            Start with SIGKILL.
        complaint
            Why it is ended against its will; empty: its end is expected.
        """
        running = self._running.get(worker_id)
        if running is None:
            return
        running.expected = not complaint
        running.complaint = running.complaint or complaint
        if force:
            running.steps, running.next_step_s = 2, None
        self._begin_end(worker_id, running)

    # -- what happened ---------------------------------------------------------------
    def poll(self, timeout_s: float) -> list[HostEvent]:
        """Wait until something happens, for ``timeout_s`` at most; return what happened."""
        self.flush()
        for key, events in self._selector.select(max(min(timeout_s, self._patience_s()), 0.0)):
            if key.data is None:
                self._drain_wakes()
            elif isinstance(key.data, End):
                running = self._running[key.data.worker_id]
                self._selector.unregister(running.process.handle)
                self._begin_end(key.data.worker_id, running)
            elif isinstance(key.data, ForkServer):
                self._hear(key.data)
            else:
                self._service(key.data, events)
        self._advance_ends()
        happened, self._events = self._events, []
        return happened

    def _patience_s(self) -> float:
        """Return how long :meth:`poll` may wait, in seconds."""
        if self._events:
            return 0.0
        if any(self._running[each].next_step_s is not None for each in self._looked_after):
            return ENDING_POLL_S
        if self._looked_after:
            return HANDLELESS_POLL_S
        return MAX_POLL_S

    def _begin_end(self, worker_id: str, running: Running) -> None:
        """Look after a process's end, whoever still holds its channel."""
        if running.next_step_s is None:
            running.next_step_s = self._clock_s()
        self._looked_after[worker_id] = None

    def _hear(self, server: ForkServer) -> None:
        """Take in which workers a server has forked, and which have ended."""
        for process in server.news():
            running = self._running.get(process.worker_id)
            if running is not None and process.pid is not None:
                self._is_there(process.worker_id, running, process.pid)
                self._events.append(WorkerForked(process.worker_id, process.pid))
        if server.is_closed:
            self._selector.unregister(server.socket)
            self._reaper.forget(server.process.pid)
        for worker_id, running in self._running.items():
            each = running.process
            if isinstance(each, ForkedProcess) and each.server is server and each.is_ending:
                self._begin_end(worker_id, running)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _service(self, worker_id: str, events: int) -> None:
        running = self._running[worker_id]
        if events & selectors.EVENT_WRITE:
            running.process.flush()
            self._listen(worker_id, running)
        if not events & selectors.EVENT_READ:
            return
        try:
            for frame in running.process.receive():
                if frame is None:
                    self._channel_ended(worker_id, running)
                elif frame.type == "imports" and self.launcher.early is not None:
                    self.launcher.early.heard(worker_id, frame)
                else:
                    self._events.append(FrameArrived(worker_id, self._checked(worker_id, frame)))
        except FrameError as error:
            self.reject(worker_id, str(error))

    def _checked(self, worker_id: str, frame: Frame) -> Frame:
        """Believe a worker that its weights have left its devices only if the driver agrees.

        One that is in another image than it should be is not believed at all.
        """
        running = self._running[worker_id]
        if frame.type == "tool" and running.tool.container is not None:
            # It may have been started from what was put in the image's place meanwhile.
            why_not = why_not_as_read(running.tool.container)
            if why_not:
                self.stop(worker_id, force=True, complaint=why_not)
        if frame.type != "moved" or not frame.meta.get("away"):
            return frame
        pid, devices = running.process.pid or -1, running.devices
        if self._memory_release.weights_are_gone(worker_id, pid, devices, running.is_its):
            return frame
        error = WorkerError("its weights are still on the device after the move to the host")
        return Frame({"type": "move_failed", "error": asdict(error)}, [])

    def believes(self, worker_id: str) -> bool:
        """Return whether a worker's frames still count: it has not broken the protocol."""
        running = self._running.get(worker_id)
        return running is None or not running.complaint

    def reject(self, worker_id: str, why: str) -> None:
        """End a worker that broke the protocol, and ignore what it still sends."""
        running = self._running.get(worker_id)
        if running is not None:
            self._channel_ended(worker_id, running)
            self.stop(worker_id, force=True, complaint=f"broke the protocol ({why})")

    def _channel_ended(self, worker_id: str, running: Running) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.process.socket)
        self._begin_end(worker_id, running)

    def _advance_ends(self) -> None:
        now_s = self._clock_s()
        for worker_id in list(self._looked_after):
            running = self._running[worker_id]
            if running.process.exit_code() is not None:
                self._ended(worker_id, running, now_s)
            elif running.next_step_s is None:
                continue
            elif now_s >= running.next_step_s:
                self._next_step(running, now_s)

    def _next_step(self, running: Running, now_s: float) -> None:
        (running.process.close_channel, running.process.terminate, running.process.kill)[
            min(running.steps, 2)
        ]()
        running.steps += 1
        running.next_step_s = now_s + GRACE_S

    def _ended(self, worker_id: str, running: Running, now_s: float) -> None:
        if not running.is_over:
            running.is_over = True
            if running.process.pid is not None:
                self._reaper.forget(running.process.pid)
            self._receive_last(worker_id, running)
        pid = running.process.pid or -1
        if not self._memory_release.is_rid_of(running.devices, pid, running.is_its):
            return
        self._memory_release.left(worker_id, running.devices)
        for descriptor in (running.process.socket, running.process.handle):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        running.process.close()
        del self._running[worker_id], self._looked_after[worker_id]
        if self.launcher.early is not None:
            self.launcher.early.ended(worker_id)
        code = None if running.complaint else running.process.exit_code()
        why = obituary(running)
        self._events.append(WorkerGone(worker_id, why, running.expected, exit_code=code))

    def _receive_last(self, worker_id: str, running: Running) -> None:
        """Receive what a process sent before its end, then stop watching its channel."""
        if not running.complaint:
            self._service(worker_id, selectors.EVENT_READ)
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.process.socket)

    def in_child(self) -> None:
        """Close everything in a forked child: none of it is the child's."""
        for running in self._running.values():
            running.process.in_child()
        self._running.clear()
        self._looked_after.clear()
        self._selector.close()
        self._woken.close()
        self._waker.close()
        self._reaper.in_child()

    def wants(self, demand: Demand) -> None:
        """Do nothing: the number of devices of this machine does not follow the demand."""

    # -- the end ---------------------------------------------------------------------
    def stop_all(self, *, force: bool = False) -> None:
        """Ask every worker to end; ``force``: kill it."""
        for worker_id in list(self._running):
            self.stop(worker_id, force=force)

    def close(
        self, on_end: Callable[[WorkerGone], None], patience_s: float = 2 * GRACE_S + 1.0
    ) -> list[str]:
        """End every worker; return the names of those that could not be ended in time.

        ``on_end`` is called for each that has ended.
        """
        self.stop_all()
        deadline_s = self._clock_s() + patience_s
        while self._running and self._clock_s() < deadline_s:
            for event in self.poll(ENDING_POLL_S):
                if isinstance(event, WorkerGone):
                    on_end(event)
        stuck = [f"{name} (pid {r.process.pid})" for name, r in self._running.items()]
        self._selector.close()
        self._woken.close()
        self._waker.close()
        self._reaper.close()
        if self.launcher.early is not None:
            self.launcher.early.close()
        return stuck
