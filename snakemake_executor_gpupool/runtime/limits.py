"""Limits of the operating system, raised before they are reached."""

from __future__ import annotations

import contextlib
import resource

#: For Snakemake, the pool's own files, and short-lived files of jobs.
BASE_FILES = 64
#: For each device: a worker's channel and handle, locks, and a file process.
FILES_A_DEVICE = 8


def allow_open_files(devices: int) -> str:
    """Raise the limit of open files to what so many devices may need.

    Returns
    -------
    str
        A warning if the limit stays too low, else empty.
    """
    need = BASE_FILES + FILES_A_DEVICE * devices
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return ""
    most = need if hard == resource.RLIM_INFINITY else min(need, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most >= need:
        return ""
    return (
        f"this process may have {most} files open at once, and {devices} devices may need {need}: "
        f"if something fails with 'Too many open files', raise it (ulimit -n {need})"
    )
