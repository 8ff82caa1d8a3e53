"""The coordinator's side of workers that are forked from one process, which imports for all.

Such a worker is no child of this process: :mod:`~snakemake_executor_gpupool.worker.fork_server`
says when it is there, and how it has ended. Until then it has no number.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from pathlib import Path

from snakemake_executor_gpupool.hosts.process import ServedProcess, WorkerProcess
from snakemake_executor_gpupool.hosts.reaper import is_ready, process_handle

#: How much of what a server says is read at a time, in bytes.
READ_BYTES = 4096


class ForkServer:
    """A process that forks workers; used by the run loop's thread alone.

    Parameters
    ----------
    process
        The server, whose channel nobody else uses.
    mark
        Its :data:`~.reaper.PROCESS_VARIABLE`.
    """

    def __init__(self, process: WorkerProcess, mark: str) -> None:
        self.process, self.mark = process, mark
        #: Whether workers share what it has imported; False: they cannot.
        self.is_sharing = True
        self._workers: dict[str, ForkedProcess] = {}
        self._new: list[ForkedProcess] = []
        self._rest = b""
        self._is_closed = False

    @property
    def socket(self) -> socket.socket:
        """Readable when there is news."""
        return self.process.socket

    @property
    def is_closed(self) -> bool:
        """Whether it says nothing any more."""
        return self._is_closed

    @property
    def is_idle(self) -> bool:
        """Whether all of its workers have ended."""
        return not self._workers

    def fork(self, worker_id: str, log_path: Path, mark: str) -> ForkedProcess | None:
        """Ask for a worker; None: the server is gone, or does not listen."""
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        with theirs:
            try:
                socket.send_fds(self.socket, [f"f{mark}".encode()], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
        worker = self._workers[mark] = ForkedProcess(worker_id, log_path, ours, self, mark)
        return worker

    def news(self) -> list[ForkedProcess]:
        """Return the workers whose numbers have become known. Never waits."""
        self._read()
        new, self._new = self._new, []
        return new

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self._is_closed:
                try:
                    data = self.socket.recv(READ_BYTES)
                except ConnectionResetError:
                    data = b""
                self._is_closed = not data
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._take(*line.decode().split())

    def _take(self, kind: str, mark: str, number: str) -> None:
        worker = self._workers.get(mark)
        if kind == "started":
            self.is_sharing = False
        if worker is None:
            return
        if kind == "ended":
            worker.ended = int(number)
        else:
            worker.arrived(int(number))
            self._new.append(worker)

    def reap(self, worker: ForkedProcess) -> None:
        """Let an ended worker's number go."""
        self._workers.pop(worker.mark, None)
        with contextlib.suppress(OSError):
            self.socket.send(f"r{worker.mark}".encode())

    def give_up(self, worker: ForkedProcess) -> None:
        """Kill the server, if that is the only way to end a worker that is not there yet."""
        if all(each.pid is None for each in self._workers.values()):
            self.process.kill()

    def dismiss(self) -> None:
        """Let the server end: nobody wants a worker any more, and all have ended."""
        self.process.close_channel()


class ForkedProcess(ServedProcess):
    """A worker that was forked, or is about to be.

    Parameters
    ----------
    mark
        Its :data:`~.reaper.PROCESS_VARIABLE`.
    """

    def __init__(
        self, worker_id: str, log_path: Path, ours: socket.socket, server: ForkServer, mark: str
    ) -> None:
        super().__init__(worker_id, log_path, ours)
        self.server, self.mark = server, mark
        #: How it has ended, as the server said; it keeps its number until it is reaped.
        self.ended: int | None = None
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int | None:
        """Process id, as of any worker; None: not yet known."""
        return self._pid

    @property
    def is_ending(self) -> bool:
        """Whether it has ended, or has nobody any more who would say so."""
        return self.ended is not None or self.server.is_closed

    def arrived(self, pid: int) -> None:
        """Note that it is there; its number stays its own until it is reaped."""
        self._pid, self.handle = pid, process_handle(pid)

    def kill(self) -> None:
        """Send SIGKILL to its process group, or see that there will be none."""
        super().kill()
        if self._pid is None:
            self.server.give_up(self)

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs. Never waits."""
        if self._code is None:
            if self.ended is None and self.server.is_closed:
                self._orphaned(self.server.process.exit_code())
            if self.ended is not None and self._code is None:
                super().kill()
                self._code = self.ended
                self.server.reap(self)
        return self._code

    def _orphaned(self, server_code: int | None) -> None:
        """See to its end: the server is gone, and it ends with that if it lived to know it."""
        if self._pid is None:
            self.ended = server_code
        elif self.handle < 0 or is_ready(self.handle, select.POLLIN, 0.0):
            # Whoever has its number now, it is not this worker: nobody is killed, or reaped.
            self._code = -signal.SIGKILL
        else:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
