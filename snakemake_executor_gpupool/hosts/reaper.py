"""The coordinator's side of the reaper, the process that clears up after it and its workers."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent.parent
#: Set in worker processes, and so in all that they start: which worker they belong to.
PROCESS_VARIABLE = "GPUPOOL_PROCESS"
#: How long writing the last orders may take, and again how long carrying them out may take.
FAREWELL_S = 5.0


class Reaper:
    """The helper process that ends what worker processes leave behind.

    When a worker has ended, it kills what the worker had started, also in sessions of its own;
    should this process be killed, it does so for all workers, and removes the run's temporary
    directories. Used by the run loop's thread alone.
    """

    def __init__(self) -> None:
        entry = PACKAGE_DIR / "worker" / "reaper.py"
        environment = {k: v for k, v in os.environ.items() if k != PROCESS_VARIABLE}
        theirs, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._unsent = bytearray()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", str(entry), str(os.getpid())],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)

    def watch(self, group: int, mark: str = "") -> None:
        """Put a process group on the list; ``mark`` is its :data:`PROCESS_VARIABLE`."""
        self._tell(f"+{group} {mark}")

    def forget(self, group: int) -> None:
        """Take a process group off the list: it has ended. What it left behind is killed."""
        self._tell(f"-{group}")

    def remove_at_end(self, directory: Path) -> None:
        """Have a directory removed if this process is killed."""
        self._tell(f"d{os.fsencode(directory.absolute()).hex()}")

    def _tell(self, line: str) -> None:
        self._unsent += f"{line}\n".encode()
        self._flush()

    def _flush(self) -> None:
        # Never blocks: a stopped helper must not stop the run.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                del self._unsent[: os.write(self._pipe, self._unsent)]

    def close(self) -> None:
        """End the helper; what is still on its list is killed."""
        self._tell(".")
        while self._unsent and is_ready(self._pipe, select.POLLOUT, FAREWELL_S):
            before = len(self._unsent)
            self._flush()
            if len(self._unsent) == before:
                break  # it is gone
        self._close_pipe()
        patience_s = 0.0 if self._unsent else FAREWELL_S
        self._let_end(patience_s)
        self._process.kill()
        self._process.wait()

    def _let_end(self, patience_s: float) -> None:
        # ``Popen.wait`` with a time limit looks every 50 ms only, which each run would wait for.
        handle = process_handle(self._process.pid)
        if handle >= 0:
            is_ready(handle, select.POLLIN, patience_s)
            os.close(handle)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)

    def in_child(self) -> None:
        """Close the pipe in a forked child: only this process may hold its end."""
        self._close_pipe()
        self._process.returncode = 0  # not the child's to wait for

    def _close_pipe(self) -> None:
        # Forgotten before it is closed, and closed once: its number is soon somebody else's.
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


def process_handle(pid: int) -> int:
    """Return a descriptor that is readable once a process has ended; -1 if there is none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):  # an old kernel, a sandbox, a descriptor too many
        return -1


def is_ready(descriptor: int, event: int, patience_s: float) -> bool:
    """Wait until a descriptor is ready, or broken; return whether it is.

    ``select`` refuses the numbers from 1024 on, which a process with many files open has.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(1000 * patience_s))
