"""The directory of lock files, and the one call that locks: what keeps others' hands off them."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError

LOCK_DIR_VARIABLE = "GPUPOOL_LOCK_DIR"

_PRIVATE, _SITE = 0o700, 0o1777
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def open_directory(directory: Path, is_site: bool) -> int:
    """Make and check the lock directory, and keep it open.

    The shared lock on it is for programs that clean up ``/tmp`` by age: they leave
    alone a directory that they cannot lock.
    """
    try:
        if not directory.exists():
            directory.mkdir(mode=_PRIVATE, parents=is_site, exist_ok=True)
            if is_site:
                directory.chmod(_SITE)
        follow = 0 if is_site else os.O_NOFOLLOW
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | follow)
    except OSError as error:
        is_dangling = directory.is_symlink() and not directory.exists()
        why = "it is a link that leads nowhere" if is_dangling else error.strerror
        raise ConfigError(
            f"cannot use the lock directory {directory}: {why}. Set {LOCK_DIR_VARIABLE} to "
            "another one"
        ) from error
    unsafe = _why_unsafe(directory, os.fstat(fd), is_site)
    if unsafe:
        os.close(fd)
        raise ConfigError(
            f"the lock directory {directory} is not safe: {unsafe}. Mend or remove it, or set "
            f"{LOCK_DIR_VARIABLE} to another one"
        )
    try_lock(fd, fcntl.LOCK_SH)
    return fd


def _why_unsafe(directory: Path, status: os.stat_result, is_site: bool) -> str:
    """Say how others could take the files away, or put theirs in the place of ours."""
    quoted, is_sticky = shlex.quote(str(directory)), status.st_mode & stat.S_ISVTX
    is_exposed = bool(status.st_mode & _OTHERS_MAY_WRITE)
    if is_site:
        if is_exposed and not is_sticky:
            return f"others may delete files in it (chmod 1777 {quoted})"
        # One that is open to all is said to be everybody's; this one is a user's own.
        if not is_exposed and status.st_uid not in (os.getuid(), 0):
            return (
                f"it belongs to user {status.st_uid}, who may replace the files in it "
                f"(chown root {quoted}, chmod 1777 {quoted})"
            )
        return ""
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}"
    return f"others may write to it (chmod go-w {quoted})" if is_exposed else ""


def why_doubtful(directory: Path, descriptor: int) -> str:
    """Say who may replace the files in a site's directory, though all the others may not."""
    owner = os.fstat(descriptor).st_uid
    if owner in (os.getuid(), 0):
        return ""
    return (
        f"the lock directory {directory} belongs to user {owner}, who may replace the locks in "
        f"it and so put two runs on one GPU: chown root {shlex.quote(str(directory))}"
    )


def checked(fd: int) -> int:
    """Refuse anything but a plain file with one name, so that a note overwrites nothing else."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return fd
    os.close(fd)
    raise OSError("it is no plain file")


def try_lock(fd: int, how: int) -> bool:
    """Lock an open file, unless somebody else has; tell whether it is locked now."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
