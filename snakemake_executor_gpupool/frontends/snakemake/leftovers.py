"""What a job's own process leaves behind when it ends.

A child Snakemake that is killed leaves its shell and what that runs: they go on writing outputs
that a retry writes, too, and computing on devices that the next job gets. They are still in the
process group that the child leads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

#: How long killed processes may take to disappear; only one that hangs in the kernel takes longer.
GONE_WITHIN_S = 5.0
POLL_S = 0.01
#: From this exit code on a shell reports that a signal ended its command.
FIRST_SIGNAL_CODE = 128


def wait_for(
    child: subprocess.Popen[bytes],
    *,
    holds_devices: bool,
    ended: Callable[[], None] = lambda: None,
) -> int:
    """Wait for a child that leads a process group, and return its exit code.

    If it was ended by a signal, or if it has held devices, what is left of its group is killed
    and waited for before the devices are released. Called on a thread of the lane.

    Parameters
    ----------
    ended
        Called when the child has ended, while its number is still its own.
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
        _wait_until_gone(child.pid)
    return code


def _wait_until_gone(group: int) -> None:
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(POLL_S)
