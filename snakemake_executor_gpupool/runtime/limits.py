"""What the operating system lets this process have, seen to before it is needed."""

from __future__ import annotations

import contextlib
import resource

#: Snakemake, the pool's own files, and what jobs need for a moment.
BASE_FILES = 64
#: A worker's channel and handle, its device's locks, a file process for it.
FILES_A_DEVICE = 8


def allow_open_files(devices: int) -> str:
    """Raise the limit of open files as far as so many devices may need; return a warning.

    Empty: there will be enough.
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
