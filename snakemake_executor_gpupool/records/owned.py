"""Temporary directories that say whose they are: locked while their run lives, removed after it.

A run that is killed leaves them behind, and its reaper removes them; where that was killed, too,
the next run does. It knows them by their lock file, which nobody holds any more: the kernel drops
a lock with the process that held it, however it ended. What has no such file, is another
machine's, another user's or no plain directory is let be.
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

#: Names the owner's machine, and is locked by it. No blob is called so: theirs begin otherwise.
LOCK_NAME = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
        """Make a directory for this user alone, with a name that nothing else has.

        Raises
        ------
        OSError
            It cannot be made.
        """
        return cls(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))

    def remove(self) -> None:
        """Remove it with all that is in it; the lock last, so that what is left can be told."""
        remove_tree(self.path)
        self.let_go()

    def unlock(self) -> None:
        """Keep what is in it, which is nobody's any more."""
        with contextlib.suppress(OSError):
            (self.path / LOCK_NAME).unlink()
        self.let_go()

    def let_go(self) -> None:
        """Close the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    in_child = let_go


def _lock_new(path: Path) -> int:
    """Put a lock file into a directory; nobody ever sees one that is not locked.

    Return its descriptor; -1 where there can be none, and nobody will take it for a dead run's.
    """
    staged = path / f"{LOCK_NAME}-{os.getpid()}"
    descriptor = -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(staged, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, _this_boot())
        staged.rename(path / LOCK_NAME)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink()
        if descriptor >= 0:
            os.close(descriptor)
        return -1
    return descriptor


def _this_boot() -> bytes:
    """Return what tells this running system from all others: locks are known within it."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


class Holder(enum.Enum):
    """Whose a directory is."""

    #: Its process has it locked.
    ALIVE = "alive"
    #: Nobody has: its run has ended, or was killed.
    NOBODY = "nobody"
    #: It was locked on another machine, or before this one was started: that cannot be told.
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
        boot = _this_boot()
        is_here = boot and os.pread(descriptor, 100, 0) == boot
    except BlockingIOError:
        return Holder.ALIVE
    except OSError:
        return Holder.ELSEWHERE
    finally:
        os.close(descriptor)
    return Holder.NOBODY if is_here else Holder.ELSEWHERE


def sweep_whole(directories: Iterable[Path]) -> None:
    """Remove those directories whose runs have ended."""
    for directory in directories:
        descriptor = _lock_dead(directory)
        if descriptor is not None:
            remove_tree(directory)
            os.close(descriptor)


def sweep_parts(directories: Iterable[Path], patterns: Iterable[str]) -> None:
    """Remove what matches one of the patterns in those whose runs have ended; the rest is kept."""
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
    """Lock a directory whose run has ended, and return the lock; None if it is none of these."""
    try:
        if not _is_ours(directory.lstat(), stat.S_ISDIR):
            return None
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(directory / LOCK_NAME, flags)
    except OSError:
        return None
    try:
        boot = _this_boot()
        is_ours = _is_ours(os.fstat(descriptor), stat.S_ISREG)
        if is_ours and boot and os.pread(descriptor, 100, 0) == boot:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:  # somebody has it: the run lives
        pass
    os.close(descriptor)
    return None


def _is_ours(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return status.st_uid == os.getuid() and is_kind(status.st_mode)


def remove_tree(directory: Path) -> None:
    """Remove a directory, its lock file last: a removal that is cut short can be done again."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK_NAME:
                with contextlib.suppress(OSError):
                    path.unlink()
    shutil.rmtree(directory, ignore_errors=True)
