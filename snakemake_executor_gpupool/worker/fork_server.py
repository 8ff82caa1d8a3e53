"""A process that imports packages once, and forks each worker that is asked of it.

Several workers of a tool that computes on the CPU would each import the same packages, for a second
or more of a core. Here they are imported once. It is the parent of its workers: it reports how they
end, and they end with it. It does nothing else.

::

    coordinator → server                server → coordinator
    fMARK, with a channel (fork)        forked MARK PID | alone MARK PID | started MARK PID
    rMARK (reap)                        ended MARK CODE

Only a process with one thread is forked, and only if the imports have left nothing behind that
two processes must not share (:class:`Traces`). Else the workers are processes that import for
themselves (``started``), and so is one that could not be forked this time (``alone``). An ended
worker keeps its number until it may be reaped, so that the coordinator can signal its group.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.worker.chance import Draws, draw_anew
from snakemake_executor_gpupool.worker.end_signals import die_with_parent
from snakemake_executor_gpupool.worker.observed import OBSERVER

#: Set in a worker and in all that it starts: which worker they belong to.
MARK_VARIABLE = "GPUPOOL_PROCESS"
MARK_LENGTH = 32
#: A letter, and a mark.
REQUEST_BYTES = 1 + MARK_LENGTH
FORK, REAP = "f", "r"
#: Seconds that it waits for a first request, once it has imported what it was to.
UNUSED_S = 120.0
#: How often children are polled where the kernel cannot notify us of their ends, in seconds.
POLL_S = 0.05


class _Child(NamedTuple):
    pid: int
    #: Readable once it has ended; -1: the kernel cannot say.
    handle: int


class ForkServer:
    """The server of this process.

    Parameters
    ----------
    descriptor
        Its socket to the coordinator.
    variables
        What a worker that imports for itself is started from.
    early
        Asks a process to wait for its tool, and then to begin anew: a variable and its text.
    restore
        Has this process be where it was started, before another program is.
    """

    def __init__(
        self,
        descriptor: int,
        variables: dict[str, str],
        early: tuple[str, str],
        restore: Callable[[], None],
    ) -> None:
        self._restore = restore
        self._control = socket.socket(fileno=descriptor)
        self._variables = {**variables, early[0]: early[1]}
        self._pid = os.getpid()
        self._children: dict[str, _Child] = {}
        self._ended: set[str] = set()
        self._can_share = False

    def serve(self, *, can_share: bool) -> int | None:
        """Answer requests. Return the channel in each worker; None: nobody wants one any more.

        ``can_share``: the imports have left nothing behind that two processes must not share.
        """
        self._can_share = can_share
        while True:
            if not self._wait():
                return None
            for mark in [*self._children.keys() - self._ended]:
                self._report_end(mark)
            if not is_readable(self._control):
                continue
            request, channels, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, 1)
            text = request.decode("ascii", "replace")
            kind, mark = text[:1], text[1:]
            if kind == FORK and channels:
                if self._fork(mark, channels[0]):
                    return channels[0]
            elif kind == REAP:
                self._reap(mark)
            else:
                return None  # the coordinator has closed the socket, or is gone

    def _wait(self) -> bool:
        """Wait until there is something to do; False: nobody wants anything."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        living = [child for mark, child in self._children.items() if mark not in self._ended]
        for child in living:
            if child.handle >= 0:
                poll.register(child.handle, select.POLLIN)
        is_polled = any(child.handle < 0 for child in living)
        patience_s = POLL_S if is_polled else None if self._children else UNUSED_S
        ready = poll.poll(None if patience_s is None else 1000 * patience_s)
        return bool(ready) or is_polled

    # -- workers -------------------------------------------------------------------------
    def _fork(self, mark: str, channel: int) -> bool:
        """Make a worker; return whether this is it."""
        pid, word = -1, "started"
        if self._can_share and count_threads() == 1:
            word = "alone"
            with contextlib.suppress(OSError):  # no memory for a copy: a small process may do
                pid, word = os.fork(), "forked"
        try:
            pid = self._start(mark, channel) if pid == -1 else pid
        except OSError as error:
            os.close(channel)
            self._tell(f"ended {mark} {error.errno or 1}")
            return False
        if pid == 0:
            self._become(mark, channel)
            return True
        os.close(channel)
        self._children[mark] = _Child(pid, _handle_of(pid))
        self._tell(f"{word} {mark} {pid}")
        return False

    def _start(self, mark: str, channel: int) -> int:
        self._restore()
        process = subprocess.Popen(
            self._command(channel),
            env={**self._variables, MARK_VARIABLE: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[channel],
            start_new_session=True,
        )
        process.returncode = 0  # waited for here
        return process.pid

    @staticmethod
    def _command(channel: int) -> list[str]:
        program, _, *more = sys.argv
        return [sys.executable, program, str(channel), *more]

    def _become(self, mark: str, channel: int) -> None:
        """Be a worker from here on; the first thing that a forked process does."""
        os.setsid()
        self._control.close()
        for child in self._children.values():
            if child.handle >= 0:
                os.close(child.handle)
        die_with_parent()
        if os.getppid() != self._pid:
            os._exit(1)  # the server has ended meanwhile
        os.set_inheritable(channel, True)
        if not write_mark(mark):
            self._restore()
            variables = {**self._variables, MARK_VARIABLE: mark}
            os.execve(sys.executable, self._command(channel), variables)  # noqa: S606 - the same program
        sys.argv[1] = str(channel)
        draw_anew()

    # -- their ends ----------------------------------------------------------------------
    def _report_end(self, mark: str) -> None:
        end = os.waitid(os.P_PID, self._children[mark].pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is not None:
            self._ended.add(mark)
            code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            self._tell(f"ended {mark} {code}")

    def _reap(self, mark: str) -> None:
        child = self._children.pop(mark, None)
        self._ended.discard(mark)
        if child is not None:
            os.waitpid(child.pid, 0)
            if child.handle >= 0:
                os.close(child.handle)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is gone: the next request is the end
            self._control.sendall(f"{line}\n".encode())


class Traces:
    """Whether imports leave behind what two processes must not share.

    That is another thread, an open file, socket or library's device, memory that is shared with
    others, a file or directory that was written, a program or process that was started, a
    connection; and a number that is to be this process's own (:class:`~.chance.Draws`).
    """

    def __init__(self) -> None:
        self._draws, self._is_open = Draws(), False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look out for them meanwhile."""
        import multiprocessing.process  # noqa: F401 - draws a key, which draw_anew knows of

        before = _what_is_open()
        try:
            with self._draws.watching():
                yield
        finally:
            self._is_open = _what_is_open() != before

    def are_none(self) -> bool:
        """Tell whether there are none."""
        is_alone = count_threads() == 1 and not self._is_open
        return is_alone and self._draws.are_none() and not OBSERVER.has_acted()


def _what_is_open() -> Any:
    """Return descriptors, and memory that is shared."""
    try:
        files = {name: os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()}
        with open("/proc/self/maps", "rb") as maps:
            shared = [line for line in maps if line.split(None, 2)[1][1::2] == b"ws"]
    except OSError:
        return object()  # equal to nothing
    return files, shared


def _descriptors() -> list[str]:
    # The one that lists them is closed again.
    return [
        name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")
    ]


def count_threads() -> int:
    """Return how many threads this process has; 0: unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def write_mark(mark: str) -> bool:
    """Make a mark this process's own; return whether that was possible.

    Whoever looks for what a worker has started reads the environment that a process was started
    from. A forked one has its parent's: it is written over where it lies.
    """
    new = os.fsencode(mark)
    try:
        import ctypes

        getenv = ctypes.CDLL(None).getenv
        getenv.argtypes, getenv.restype = [ctypes.c_char_p], ctypes.c_void_p
        address = getenv(os.fsencode(MARK_VARIABLE))
        if not address or len(ctypes.string_at(address)) != len(new):
            return False
        ctypes.memmove(address, new, len(new))
        with open("/proc/self/environ", "rb") as file:
            is_there = b"%s=%s" % (os.fsencode(MARK_VARIABLE), new) in file.read().split(b"\0")
    except (ImportError, OSError, AttributeError):
        return False
    os.environ[MARK_VARIABLE] = mark
    return is_there


def is_readable(channel: socket.socket) -> bool:
    """Tell whether something has come, or the other end is closed."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(0))


def _handle_of(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1
