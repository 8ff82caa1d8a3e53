"""The store of results as files: their names, and who may have written them.

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

import os
import re
import stat

from snakemake_executor_gpupool.errors import BadEntry
from snakemake_executor_gpupool.wire.kept import UNSAFE

#: The first bytes of every entry.
MAGIC = b"gpupoolR"
FOLDER_NAME = re.compile(r"[0-9a-f]{2}")
ENTRY_NAME = re.compile(r"[0-9a-f]{64}")
#: An entry that is being written, or was left by a killed writer.
STAGED_NAME = re.compile(r"\.staged-[0-9a-f]{16}")
# Never blocks on a pipe in the place of an entry.
OPEN_ENTRY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def why_unsafe(status: os.stat_result, group: int | None) -> str:
    """Return who else could have written there; empty: nobody who is not trusted.

    Parameters
    ----------
    group
        Id of the group whose members are trusted; None: this user and root alone.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        return f"it is open to everybody (mode {mode:04o})"
    if group is not None and status.st_gid == group:
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {user_name(status.st_uid)}"
    if mode & stat.S_IWGRP:
        return f"its group {group_name(status.st_gid)} may write to it (mode {mode:04o})"
    return ""


def user_name(uid: int) -> str:
    """Return a user's name, or number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, or number where it has none."""
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return str(gid)


def open_directory(name: str, group: int | None, within: int | None = None) -> int:
    """Open a directory of the store; no link is followed.

    Raises
    ------
    BadEntry
        Users who are not trusted may write to it.
    OSError
        It does not exist, or is not a directory, or is a link.
    """
    descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=within)
    why = why_unsafe(os.fstat(descriptor), group)
    if why:
        os.close(descriptor)
        raise BadEntry(why, UNSAFE)
    return descriptor


def share(name: str, group: int, within: int | None = None) -> None:
    """Let a group use a directory that was just created."""
    os.chown(name, -1, group, dir_fd=within, follow_symlinks=False)
    os.chmod(name, 0o2770, dir_fd=within)  # noqa: S103 - that is what sharing means
