"""Lock files in a directory that several runs, and perhaps several users, share.

A file is locked by ``flock``: the lock ends with the process that holds it, however that ends.
In the file stands a note: the process's id on the first line, for messages, then one token a
line of the leases that it lends. The names and this format are the same in every version, so
that runs of two versions never use one card together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError

LOCK_DIR_VARIABLE = "GPUPOOL_LOCK_DIR"

_MAX_NOTE_BYTES = 65536
# Python opens files close-on-exec, so no child keeps a lock alive.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_PRIVATE, _SITE = 0o700, 0o1777
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class LockFiles:
    """The lock files of one directory, as one process sees them. Nothing here waits.

    One thread at a time may call it.

    Parameters
    ----------
    directory
        Where they are; made if it is not there.
    is_site
        It is for all users of the machine.

    Attributes
    ----------
    warning
        What the user should know, though the directory can be used; empty: nothing.

    Raises
    ------
    ConfigError
        The directory cannot be used, or is not safe to use.
    """

    def __init__(self, directory: Path, is_site: bool) -> None:
        self.directory = directory
        self.is_site = is_site
        self._fd = open_directory(directory, is_site)
        self.warning = why_doubtful(directory, self._fd) if is_site else ""

    def close(self) -> None:
        """Close the directory; files that are locked stay locked."""
        fd, self._fd = self._fd, -1  # a thread may fork between the two
        if fd >= 0:
            os.close(fd)

    def names(self) -> list[str]:
        """Return the names of all files in the directory."""
        return os.listdir(self._fd)  # noqa: PTH208 - no path, a descriptor

    def lock(self, file_name: str, how: int) -> int | None:
        """Open and lock a file; None if another process holds it."""
        while True:
            fd = self.open(file_name)
            if not try_lock(fd, how):
                os.close(fd)
                return None
            if self._is_current(fd, file_name):
                return fd
            os.close(fd)  # the file was removed meanwhile: once more

    def is_locked(self, file_name: str) -> bool:
        """Tell whether another process holds a file.

        It is locked for a moment to find out. A process that tries to acquire it just then finds it
        taken, and tries again later.
        """
        fd = self._open_if_there(file_name)
        if fd is None:
            return False
        try:
            return not try_lock(fd, fcntl.LOCK_EX)
        finally:
            unlock(fd)

    def open(self, file_name: str) -> int:
        """Open a file in the directory; make it if need be.

        Two steps, since in a sticky directory the kernel refuses O_CREAT on others'
        files; in a loop, since others may make or remove it in between.
        """
        for _ in range(100):
            fd = self._open_if_there(file_name)
            if fd is not None:
                return fd
            with contextlib.suppress(FileExistsError), self._explained(file_name):
                return self._create(file_name)
        raise ConfigError(
            f"the lock file {self.directory / file_name} cannot be made: the directory is "
            f"removed again and again. Set {LOCK_DIR_VARIABLE} to another one"
        )

    def _open_if_there(self, file_name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError), self._explained(file_name):
            return checked(os.open(file_name, _FLAGS, dir_fd=self._fd))
        return None

    @contextlib.contextmanager
    def _explained(self, file_name: str) -> Iterator[None]:
        """Turn what the system refuses into a message; pass on what a retry settles."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            reason = f"cannot use {self.directory / file_name}: {error.strerror or error}"
            raise ConfigError(f"{reason}. {self._remedy(error)}") from error

    def _remedy(self, error: OSError) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"Make room there, or set {LOCK_DIR_VARIABLE} to another directory"
        if self.is_site:
            quoted = shlex.quote(str(self.directory))
            return (
                f"{LOCK_DIR_VARIABLE} names a directory for all users of the machine: "
                f"chmod 1777 {quoted}, and chmod 666 the files in it"
            )
        return f"Remove it, or set {LOCK_DIR_VARIABLE} to another directory"

    def _create(self, file_name: str) -> int:
        flags = _FLAGS | os.O_CREAT | os.O_EXCL
        fd = os.open(file_name, flags, 0o600, dir_fd=self._fd)
        if self.is_site:
            os.fchmod(fd, 0o666)  # every user of the site must be able to lock it
        return fd

    def _is_current(self, fd: int, file_name: str) -> bool:
        """Tell whether an open file is still the one that others would open."""
        try:
            there = os.stat(file_name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def end(self, file_name: str, fd: int) -> None:
        """Release a lock, and remove a borrower's file."""
        if not file_name.endswith(".lock"):
            with contextlib.suppress(OSError):
                os.unlink(file_name, dir_fd=self._fd)
        unlock(fd)

    def clean_up(self, file_name: str) -> None:
        """Remove the file of a borrower that has ended."""
        fd = self._open_if_there(file_name)
        if fd is None:
            return
        if try_lock(fd, fcntl.LOCK_EX) and self._is_current(fd, file_name):
            self.end(file_name, fd)
        else:
            os.close(fd)

    # --- notes: who holds a lock, and the leases that it lends to

    def _note(self, file_name: str) -> list[str]:
        fd = self._open_if_there(file_name)
        if fd is None:
            return []
        try:
            return os.pread(fd, _MAX_NOTE_BYTES, 0).decode("ascii", "replace").splitlines()
        finally:
            os.close(fd)

    def pid(self, file_name: str) -> int | None:
        """Return the process that a file's note names; None: none, or not readable."""
        first = (self._note(file_name) or [""])[0]
        return int(first) if re.fullmatch(r"[0-9]{1,9}", first) else None

    def tokens(self, file_name: str) -> set[str]:
        """Return the tokens of the leases that a file's note lists."""
        return set(self._note(file_name)[1:])


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
    """Return how others could remove or replace the files in a directory; empty: they cannot."""
    quoted, is_sticky = shlex.quote(str(directory)), status.st_mode & stat.S_ISVTX
    is_exposed = bool(status.st_mode & _OTHERS_MAY_WRITE)
    if is_site:
        if is_exposed and not is_sticky:
            return f"others may delete files in it (chmod 1777 {quoted})"
        # A directory that all may write gets its own message; this one is a user's own.
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
    """Return a warning if one other user may replace the files of a site's directory."""
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
    """Lock an open file unless another process has; return whether this one holds it now."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_note(fd: int, tokens: Iterable[str]) -> None:
    """Leave this process's id, for messages, and the leases, for borrowers."""
    note = "\n".join([str(os.getpid()), *tokens, ""]).encode()
    with contextlib.suppress(OSError):
        os.pwrite(fd, note, 0)
        os.ftruncate(fd, len(note))


def close_lock(fds: dict[str, int], name: str | None) -> None:
    """End a lock."""
    if name in fds:
        unlock(fds.pop(name))


def unlock(fd: int) -> None:
    """Unlock a file and close it: to close it is not enough where a forked child has a copy."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
