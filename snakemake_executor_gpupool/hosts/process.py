"""The coordinator's side of one worker process: start, frames in and out, end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import WorkerStartError
from snakemake_executor_gpupool.hosts.reaper import process_handle
from snakemake_executor_gpupool.records.paths import open_private
from snakemake_executor_gpupool.wire.bounds import MAX_WORKER_BODY_BYTES, MAX_WORKER_META_BYTES
from snakemake_executor_gpupool.wire.frames import Blob, Decoder, Frame, encode

PACKAGE_DIR = Path(__file__).resolve().parent.parent
CHILD_ENTRY = PACKAGE_DIR / "worker" / "main.py"
#: Where the run loop's thread reads into: most frames are small, and a fresh buffer of this size
#: for each would cost more than all else that is done with them.
_SCRATCH = memoryview(bytearray(1 << 20))
#: How many reads of that size one turn of the loop does for one worker: others wait, too.
READS_AT_ONCE = 4
#: How many chunks are handed to the kernel at once.
CHUNKS_PER_WRITE = 64
#: How much of the end of a worker's log an error message quotes.
LOG_TAIL_BYTES = 2000
#: Exit codes above this one say that a signal, of the number beyond it, has ended a command.
_SHELL_SIGNAL = 128


class ServedProcess(ABC):
    """A worker process, whoever has started it, and its channel; for the run loop's thread alone.

    Parameters
    ----------
    worker_id
        Names the process in logs and events.
    log_path
        Where its standard output and error go.
    channel
        Our end of the channel.
    """

    _in_container = False

    def __init__(self, worker_id: str, log_path: Path, channel: socket.socket) -> None:
        self.worker_id, self.log_path = worker_id, log_path
        channel.setblocking(False)
        self.socket = channel
        #: Readable once the process has ended, whoever else holds its channel; -1: the kernel
        #: cannot say.
        self.handle = -1
        self._decoder = Decoder(MAX_WORKER_META_BYTES, MAX_WORKER_BODY_BYTES)
        self._outgoing: deque[memoryview] = deque()

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Process id, also of its process group and session; None: it is not there yet."""

    @abstractmethod
    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs. Never waits.

        What is left of its process group is killed with it.
        """

    # -- frames ----------------------------------------------------------------
    def send(self, meta: dict[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Queue a frame and write what the channel takes at once."""
        self.queue(meta, blobs)
        self.flush()

    def queue(self, meta: dict[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Queue a frame, to be written with others by the next :meth:`flush`."""
        self._outgoing.extend(memoryview(chunk) for chunk in encode(meta, blobs) if chunk)

    def flush(self) -> None:
        """Write as much of what is queued as the channel takes."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outgoing:
                written = self.socket.sendmsg(itertools.islice(self._outgoing, CHUNKS_PER_WRITE))
                while written:
                    chunk = self._outgoing.popleft()
                    if written < len(chunk):
                        self._outgoing.appendleft(chunk[written:])
                    written -= min(written, len(chunk))

    @property
    def wants_write(self) -> bool:
        """Whether frames are waiting for the channel to take them."""
        return bool(self._outgoing)

    def receive(self) -> Iterator[Frame | None]:
        """Yield frames that have arrived; a final None when the channel has ended.

        At most :data:`READS_AT_ONCE` reads are done; the rest waits for the next call.

        Raises
        ------
        FrameError
            The worker sent something that is not a frame.
        """
        for _ in range(READS_AT_ONCE):
            try:
                size_bytes = self.socket.recv_into(_SCRATCH)
            except BlockingIOError:
                return
            except ConnectionResetError:
                size_bytes = 0
            if not size_bytes:
                yield None
                return
            yield from self._decoder.feed(_SCRATCH[:size_bytes])
            if size_bytes < len(_SCRATCH):
                return

    # -- the end -----------------------------------------------------------------
    def close_channel(self) -> None:
        """Close our end of the channel: the worker then ends by itself."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def terminate(self) -> None:
        """Send SIGTERM to the worker's whole process group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the worker's whole process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        code = self.exit_code()
        if self._in_container and code is not None and code > _SHELL_SIGNAL:
            # What a shell, and a container, makes of a signal that has ended what runs in it.
            return f"{describe_exit(_SHELL_SIGNAL - code)} in its container"
        return describe_exit(code)

    def close(self) -> None:
        """Close the channel."""
        self.socket.close()
        handle, self.handle = self.handle, -1  # a thread may fork between the two
        if handle >= 0:
            os.close(handle)

    def in_child(self) -> None:
        """Close the channel in a forked child: the process is its parent's."""
        self.close()

    def last_words(self) -> str:
        """Return the end of the worker's log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(log.tell() - LOG_TAIL_BYTES, 0))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""


class WorkerProcess(ServedProcess):
    """A process that is started for one worker, and its channel.

    Parameters
    ----------
    worker_id
        Names the process in logs and events.
    python
        The interpreter to run it under.
    environment
        The whole environment of the process.
    log_path
        Where its standard output and error go.
    activation
        Shell commands that enter the software environment of a rule and then run ``"$@"``;
        empty: none.
    cwd, umask
        Where it starts, and which permissions its files lack; None and -1: as this process.
    in_container
        ``activation`` starts the worker, in a container. Its standard input is the channel: the
        one descriptor that reaches the inside of every container.

    Raises
    ------
    WorkerStartError
        The interpreter cannot be started.
    """

    def __init__(
        self,
        worker_id: str,
        python: str,
        environment: Mapping[str, str],
        log_path: Path,
        activation: str = "",
        cwd: str | None = None,
        umask: int = -1,
        in_container: bool = False,
    ) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerStartError(f"cannot start a worker: {error}") from error
        command = [python, str(CHILD_ENTRY), str(theirs.fileno()), str(PACKAGE_DIR)]
        if in_container:
            command = ["bash", "--norc", "-c", activation]
        elif activation:
            command = ["bash", "-c", activation, "bash", *command]
        try:
            with theirs, open(log_path, "ab", opener=open_private) as log:
                self._process = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=theirs.fileno() if in_container else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[] if in_container else [theirs.fileno()],
                    start_new_session=True,
                    cwd=cwd,
                    umask=umask,
                )
        except (OSError, ValueError) as error:  # ValueError: what no process may be given
            ours.close()
            raise WorkerStartError(f"cannot start a worker with {python}: {error}") from error
        super().__init__(worker_id, log_path, ours)
        self._in_container = in_container
        self.handle = process_handle(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group and session."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs. Never waits.

        What is left of its process group is killed with it.
        """
        if self._process.returncode is None and self._is_over():
            # Before waiting for it: until then no other process can get its group's number.
            self.kill()
        return self._process.poll()

    def _is_over(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False  # somebody else has waited for it

    def in_child(self) -> None:
        """Close the channel in a forked child: the process is its parent's."""
        super().in_child()
        self._process.returncode = 0


def describe_exit(code: int | None) -> str:
    """Return an exit code in words: ``killed by SIGKILL``, ``exit code 3``."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
