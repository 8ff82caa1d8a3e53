"""Temporary directories that record their owner: locked while their run lives, removed after it.

If a run is killed, its reaper removes them; if that is killed too, the next run does. It
recognises them by a lock file that nobody holds any more: the kernel releases a lock with the
process that held it, however that ended. A directory without such a file, of another machine or
of another user is left alone.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.wire.machine import this_boot

#: Holds the owner's boot id, within which locks are valid, and is locked by the owner. Names of
#: blobs start differently.
LOCK_NAME = ".lock"


class OwnedDirectory:
    """A directory that this process has locked.

    Parameters
    ----------
    path
        The directory, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _lock_new(path)
        let_go_in_children(self)

    @classmethod
    def make(cls, parent: Path, prefix: str) -> OwnedDirectory:
        """Create a directory for this user alone, under a new name.

        Raises
        ------
        OSError
            It cannot be created.
        """
        return cls(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))

    def remove(self) -> None:
        """Remove the directory, its lock file last, so that leftovers stay recognisable."""
        remove_tree(self.path)
        self.let_go()

    def unlock(self) -> None:
        """Give up ownership, and keep the contents."""
        with contextlib.suppress(OSError):
            (self.path / LOCK_NAME).unlink()
        self.let_go()

    def let_go(self) -> None:
        """Close the lock."""
        descriptor, self._descriptor = self._descriptor, -1  # a thread may fork between the two
        if descriptor >= 0:
            os.close(descriptor)

    in_child = let_go


def _lock_new(path: Path) -> int:
    """Put a lock file into a directory; it is locked before it gets its final name.

    Returns
    -------
    int
        Its descriptor; -1 if there can be none: then no other run removes the directory.
    """
    staged = path / f"{LOCK_NAME}-{os.getpid()}"
    descriptor = -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(staged, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, this_boot())
        staged.rename(path / LOCK_NAME)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink()
        if descriptor >= 0:
            os.close(descriptor)
        return -1
    return descriptor


class Holder(enum.Enum):
    """Whose a directory is."""

    #: Its process has it locked.
    ALIVE = "alive"
    #: Nobody has: its run has ended, or was killed.
    NOBODY = "nobody"
    #: It was locked on another machine, or before this one was started: which is not known.
    ELSEWHERE = "elsewhere"


def holder_of(directory: Path) -> Holder:
    """Tell whether a directory's run lives; its lock is held for a moment at most, and shared."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(directory / LOCK_NAME, flags)
    except OSError:
        return Holder.NOBODY
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        boot = this_boot()
        is_here = boot and os.pread(descriptor, 100, 0) == boot
    except BlockingIOError:
        return Holder.ALIVE
    except OSError:
        return Holder.ELSEWHERE
    finally:
        os.close(descriptor)
    return Holder.NOBODY if is_here else Holder.ELSEWHERE


def sweep_whole(directories: Iterable[Path]) -> None:
    """Remove the directories whose runs have ended."""
    for directory in directories:
        descriptor = _lock_dead(directory)
        if descriptor is not None:
            remove_tree(directory)
            os.close(descriptor)


def sweep_parts(directories: Iterable[Path], patterns: Iterable[str]) -> None:
    """Remove what matches a pattern in the directories whose runs have ended; keep the rest."""
    patterns = list(patterns)
    for directory in directories:
        descriptor = _lock_dead(directory)
        if descriptor is not None:
            for pattern in patterns:
                for path in directory.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                (directory / LOCK_NAME).unlink()
            os.close(descriptor)


def _lock_dead(directory: Path) -> int | None:
    """Lock a directory whose run has ended, and return the lock; None: it is not one."""
    try:
        if not _is_ours(directory.lstat(), stat.S_ISDIR):
            return None
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(directory / LOCK_NAME, flags)
    except OSError:
        return None
    try:
        boot = this_boot()
        is_ours = _is_ours(os.fstat(descriptor), stat.S_ISREG)
        if is_ours and boot and os.pread(descriptor, 100, 0) == boot:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:  # it is locked: the run lives
        pass
    os.close(descriptor)
    return None


def _is_ours(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return status.st_uid == os.getuid() and is_kind(status.st_mode)


def remove_tree(directory: Path) -> None:
    """Remove a directory, its lock file last, so that an interrupted removal can be repeated."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK_NAME:
                with contextlib.suppress(OSError):
                    path.unlink()
    shutil.rmtree(directory, ignore_errors=True)
