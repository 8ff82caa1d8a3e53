"""One lock per GPU, so that several runs on a machine never hold one card together.

Each lock is an ``flock`` on a file named after the card's UUID. The kernel holds
it, not the file: it is gone the moment its process ends, however it ends, and a
file that is left behind means nothing. Locks exclude processes, not the workers
within one: a process that holds a card may put several workers on it.

The files are in ``$GPUPOOL_LOCK_DIR``, which a site sets to one directory for all
its users, else in ``/tmp/gpupool-<uid>``. It is not ``$XDG_RUNTIME_DIR``, since that
is deleted at the last logout, under the feet of a run that goes on without a
terminal; the next run would then make new files and see every card as free.

Beside each lock there is a second file, by which a run that waits for a card says
so (:meth:`DeviceLocks.want`); a run that holds the card with idle workers only can
then let go of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.model import Device
from snakemake_executor_gpupool.errors import ConfigError

LOCK_DIR_VARIABLE = "GPUPOOL_LOCK_DIR"

_PRIVATE, _SITE = 0o700, 0o1777
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_NOTE_BYTES = 64
# Python opens files close-on-exec, so no child keeps a lock alive.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


class DeviceLocks:
    """The locks that one process holds. Nothing here waits.

    Parameters
    ----------
    env
        The environment: ``GPUPOOL_LOCK_DIR``.

    Raises
    ------
    ConfigError
        The lock directory cannot be used, or is not safe to use.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        site = env.get(LOCK_DIR_VARIABLE, "").strip()
        self.directory = Path(site) if site else Path("/tmp") / f"gpupool-{os.getuid()}"  # noqa: S108 - checked in _open_directory
        self._is_site = bool(site)
        self._directory_fd = _open_directory(self.directory, self._is_site)
        self._held: dict[str, int] = {}  # lock name -> its open file
        self._wanted: dict[str, int] = {}
        let_go_in_children(self)

    def in_child(self) -> None:
        """Close everything in a forked child, and unlock nothing: the locks are the parent's."""
        for fd in (*self._held.values(), *self._wanted.values(), self._directory_fd):
            if fd >= 0:
                os.close(fd)
        self._held.clear()
        self._wanted.clear()
        self._directory_fd = -1

    def try_acquire(self, device: Device) -> bool:
        """Take a device's lock unless another process holds it; True if this one holds it now.

        CPU slots have no lock: all processes share the cores.

        Raises
        ------
        ConfigError
            The lock file cannot be used.
        """
        name = _lock_name(device)
        if name is None or name in self._held:
            return True
        fd = self._locked(f"{name}.lock", fcntl.LOCK_EX)
        if fd is None:
            return False
        _write_note(fd)
        self._held[name] = fd
        return True

    def release(self, device: Device) -> None:
        """Let go of a device's lock, if this process holds it."""
        _close(self._held, _lock_name(device))

    def holder_pid(self, device: Device) -> int | None:
        """Return the process that holds a device, for a message; None: nobody, or unknown."""
        name = _lock_name(device)
        if name is None:
            return None
        if name in self._held:
            return os.getpid()
        return self._note(f"{name}.lock") if self._is_locked(f"{name}.lock") else None

    def is_held(self, device: Device) -> bool:
        """Whether any process holds a device, this one included."""
        name = _lock_name(device)
        return name is not None and (name in self._held or self._is_locked(f"{name}.lock"))

    # --- asking others to let go

    def want(self, device: Device) -> None:
        """Tell the process that holds a device that this one waits for it."""
        name = _lock_name(device)
        if name is None or name in self._wanted:
            return
        fd = self._locked(f"{name}.want", fcntl.LOCK_SH)
        if fd is not None:
            self._wanted[name] = fd

    def unwant(self, device: Device) -> None:
        """Wait no longer for a device."""
        _close(self._wanted, _lock_name(device))

    def is_wanted(self, device: Device) -> bool:
        """Whether another process waits for a device."""
        name = _lock_name(device)
        if name is None or name in self._wanted:
            return False
        return self._is_locked(f"{name}.want")

    def close(self) -> None:
        """Let go of everything."""
        for fds in (self._held, self._wanted):
            for name in list(fds):
                _close(fds, name)
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    # --- files

    def _locked(self, file_name: str, how: int) -> int | None:
        """Open and lock a file; None if another process holds it."""
        while True:
            fd = self._open(file_name)
            if not _try_lock(fd, how):
                os.close(fd)
                return None
            if self._is_current(fd, file_name):
                return fd
            os.close(fd)  # somebody cleaned the directory up meanwhile: once more

    def _is_locked(self, file_name: str) -> bool:
        """Whether another process holds a file.

        To look means to lock for a moment. Who tries to acquire just then sees
        the device as taken, once, and tries again later.
        """
        fd = self._open_if_there(file_name)
        if fd is None:
            return False
        try:
            return not _try_lock(fd, fcntl.LOCK_EX)
        finally:
            unlock(fd)

    def _open(self, file_name: str) -> int:
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
        raise ConfigError(f"{self.directory / file_name} comes and goes")

    def _open_if_there(self, file_name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError), self._explained(file_name):
            return _checked(os.open(file_name, _FLAGS, dir_fd=self._directory_fd))
        return None

    @contextlib.contextmanager
    def _explained(self, file_name: str) -> Iterator[None]:
        """Turn what the system refuses into a message; pass on what a retry settles."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise ConfigError(f"cannot use {self.directory / file_name}: {error}") from error

    def _create(self, file_name: str) -> int:
        flags = _FLAGS | os.O_CREAT | os.O_EXCL
        fd = os.open(file_name, flags, 0o600, dir_fd=self._directory_fd)
        if self._is_site:
            os.fchmod(fd, 0o666)  # whoever of the site comes next must be able to lock it
        return fd

    def _is_current(self, fd: int, file_name: str) -> bool:
        """Whether the open file still is the one that others would open."""
        try:
            there = os.stat(file_name, dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def _note(self, file_name: str) -> int | None:
        fd = self._open_if_there(file_name)
        if fd is None:
            return None
        try:
            text = os.pread(fd, _LONGEST_NOTE_BYTES, 0).decode("ascii", "replace")
        finally:
            os.close(fd)
        return int(text) if re.fullmatch(r"[0-9]{1,9}\n?", text) else None


def _lock_name(device: Device) -> str | None:
    """Return what a device's files are called; None: it needs no lock."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", device.uuid) if device.uuid else None


def _open_directory(directory: Path, is_site: bool) -> int:
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
        raise ConfigError(f"cannot use the lock directory {directory}: {error}") from error
    unsafe = _why_unsafe(os.fstat(fd), is_site)
    if unsafe:
        os.close(fd)
        raise ConfigError(
            f"the lock directory {directory} is not safe: {unsafe}. Remove it, or set "
            f"{LOCK_DIR_VARIABLE} to another one"
        )
    _try_lock(fd, fcntl.LOCK_SH)
    return fd


def _why_unsafe(status: os.stat_result, is_site: bool) -> str:
    """Say how others could take the files away, or put theirs in the place of ours."""
    if is_site:
        sticky = status.st_mode & stat.S_ISVTX
        exposed = status.st_mode & _OTHERS_MAY_WRITE and not sticky
        return "others may delete files in it (chmod 1777 helps)" if exposed else ""
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}"
    return "others may write to it" if status.st_mode & _OTHERS_MAY_WRITE else ""


def _checked(fd: int) -> int:
    """Refuse anything but a plain file with one name, so that a note overwrites nothing else."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return fd
    os.close(fd)
    raise OSError("it is no plain file")


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_note(fd: int) -> None:
    """Leave this process's id for others' messages; nothing depends on it."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _close(fds: dict[str, int], name: str | None) -> None:
    """End a lock."""
    if name in fds:
        unlock(fds.pop(name))


def unlock(fd: int) -> None:
    """Unlock a file and close it: to close it is not enough where a forked child has a copy."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
