"""What a job's own process leaves behind when it ends.

A child Snakemake that is killed leaves its shell and what that runs: they go on writing outputs
that a retry writes, too, and computing on devices that the next job gets. Most are still in the
process group that the child leads; what has left it (``setsid``, a daemon) is found by a mark in
its environment, which processes inherit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable

import psutil

from snakemake_executor_gpupool.devices.visibility import also_in_containers
from snakemake_executor_gpupool.hosts.containers import marked_by
from snakemake_executor_gpupool.hosts.reaper import PROCESS_VARIABLE

#: How long killed processes may take to disappear; only one that hangs in the kernel takes longer.
GONE_WITHIN_S = 5.0
POLL_S = 0.01
#: From this exit code on a shell reports that a signal ended its command.
FIRST_SIGNAL_CODE = 128


class Mark:
    """Tells all processes of one job from others, also those that have left its process group.

    Parameters
    ----------
    holds_devices
        Jobs without devices have none: they may leave something behind.

    Attributes
    ----------
    text
        Different for each job; empty: none.
    variables
        To start the job with.
    """

    def __init__(self, *, holds_devices: bool) -> None:
        self.text = secrets.token_hex(16) if holds_devices else ""
        marks = {PROCESS_VARIABLE: self.text} if holds_devices else {}
        self.variables = also_in_containers(marks)

    def processes(self) -> list[psutil.Process]:
        """Return the job's processes that run; takes a millisecond for each hundred of all."""
        is_its, found = marked_by(PROCESS_VARIABLE, self.text), []
        for pid in psutil.pids() if self.text else ():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if is_its(pid) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def wait_for(
    child: subprocess.Popen[bytes],
    *,
    holds_devices: bool,
    ended: Callable[[], None] = lambda: None,
    mark: Mark | None = None,
) -> int:
    """Wait for a child that leads a process group, and return its exit code.

    If it was ended by a signal, or if it has held devices, what is left of it is killed and waited
    for before the devices are released. Called on a thread of its own.

    Parameters
    ----------
    ended
        Called when the child has ended, while its number is still its own.
    mark
        What the child was started with; None: only its group is found.
    """
    # Not reaped yet: until then no other process can get its number, which is the group's.
    end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert end is not None
    ended()
    is_killed = end.si_code != os.CLD_EXITED or end.si_status > FIRST_SIGNAL_CODE
    is_cleared = is_killed or holds_devices
    if is_cleared:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    if is_cleared:
        _wait_until_gone(child.pid, mark)
    return code


def _wait_until_gone(group: int, mark: Mark | None) -> None:
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while time.monotonic() < deadline_s:
        left = mark.processes() if mark is not None else []
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left and _is_gone(group):
            return
        time.sleep(POLL_S)


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False
