"""Ends what workers, or a killed coordinator, leave behind.

A tiny process of its own session. The coordinator writes lines into its standard input::

    +GROUP MARK   a process group to kill at the end; MARK is in the environment of all of it
    -GROUP        that group's first process has ended: kill what is left with its mark
    dPATH         a directory to remove at the end, its name in hexadecimal
    .             farewell

When the pipe ends without a farewell, or the coordinator ends while another process still holds
the pipe, every process group on the list is killed, stopped or blocked ones included, and the
directories are removed. The idea is that of multiprocessing's resource
tracker. Started as ``python -S -E reaper.py COORDINATOR`` with the pipe as standard input.

Processes that a tool started may have left its session (a daemon does): they are found by
their environment, which children inherit.
"""

import contextlib
import os
import select
import signal
import sys
import time
from typing import Optional

VARIABLE = b"GPUPOOL_PROCESS="
#: How often to search for marked processes: one that is just being forked may be missed once.
MAX_SWEEPS = 5
#: How often the parent is polled where the kernel cannot notify us of its end.
PARENT_POLL_S = 0.5
#: How long killed processes may take to disappear and stop writing.
REMOVAL_S = 5.0


class Lists:
    """The process groups, marks and directories to clear up."""

    def __init__(self) -> None:
        self.groups: dict[int, str] = {}
        self.directories: list[bytes] = []
        self._ended: set[bytes] = set()

    def take(self, line: str) -> None:
        """Follow an order."""
        if line.startswith("+"):
            group, _, mark = line[1:].partition(" ")
            self.groups[int(group)] = mark
        elif line.startswith("-"):
            mark = self.groups.pop(int(line[1:]), "")
            self._ended |= {mark.encode()} - {b""}
        elif line.startswith("d"):
            self.directories.append(bytes.fromhex(line[1:]))

    def sweep_ended(self) -> None:
        """Kill what is left of those that have ended: one look at all processes for all of them."""
        sweep(self._ended)
        self._ended.clear()

    def clear_up(self) -> None:
        """Kill all that is on the list, and remove the directories."""
        for group in self.groups:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        sweep(self._ended.union(mark.encode() for mark in self.groups.values() if mark))
        deadline_s = time.monotonic() + REMOVAL_S
        for directory in self.directories:
            remove(directory, deadline_s)


def sweep(marks: set[bytes]) -> None:
    """Kill every process that has one of these marks in its environment."""
    variables = {VARIABLE + mark for mark in marks}
    for _ in range(MAX_SWEEPS if marks else 0):
        if not [pid for pid in own_processes() if kill_marked(pid, variables)]:
            return
        time.sleep(0.01)


def own_processes() -> list[int]:
    """Return the ids of all of this user's processes but this one."""
    pids, me, user = [], os.getpid(), os.getuid()
    with os.scandir("/proc") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == user and int(entry.name) != me:
                    pids.append(int(entry.name))
    return pids


def kill_marked(pid: int, marks: set[bytes]) -> bool:
    """Kill a process if it has one of these variables; return whether it has and is alive."""
    try:
        # Opened first: its number may be given to another process meanwhile.
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        if marks.isdisjoint(variables) or is_dead(pid):
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)


def is_dead(pid: int) -> bool:
    """Return whether a process has ended and only waits to be reaped by its parent."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")


def remove(directory: bytes, deadline_s: float) -> None:
    """Remove a directory; repeated, as killed processes may still be writing there."""
    import shutil

    while os.path.isdir(directory) and not os.path.islink(directory):
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline_s:
            return
        time.sleep(0.02)


def follow(lists: Lists, parent: int) -> None:
    """Follow orders until the pipe ends, a farewell comes, or the coordinator ends."""
    watched: list[int] = [0]
    timeout_s: Optional[float] = PARENT_POLL_S
    with contextlib.suppress(OSError, AttributeError):
        watched.append(os.pidfd_open(parent))
        timeout_s = None
    rest = b""
    while os.getppid() == parent or select.select([0], [], [], 0)[0]:
        ready = select.select(watched, [], [], timeout_s)[0]
        if 0 in ready:
            data = os.read(0, 65536)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line == b".":
                    return
                lists.take(line.decode())
            lists.sweep_ended()
            if not data:
                return
        elif ready:
            return


def main() -> None:
    """Follow the list until the pipe ends, then clear up what is left on it."""
    own = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in own:  # they are for a whole group or job, and this process is its last one
        signal.signal(number, signal.SIG_IGN)
    lists = Lists()
    follow(lists, int(sys.argv[1]))
    lists.clear_up()


if __name__ == "__main__":
    main()
