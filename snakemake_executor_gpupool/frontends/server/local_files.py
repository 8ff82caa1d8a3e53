"""What paths are to this process, and locks of files. Light: clients import it."""

from __future__ import annotations

import os
import stat


def is_special(path: str) -> bool:
    """Return whether a path is another thing for another process, or neither file nor directory."""
    absolute = os.path.abspath(path)
    if absolute.startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_locked(descriptor: int) -> bool:
    """Lock a file, unless another process has; return whether it is ours.

    Raises
    ------
    OSError
        The file system has no locks.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
