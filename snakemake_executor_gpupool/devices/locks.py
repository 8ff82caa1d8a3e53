"""One lock per GPU, so that several runs on a machine never hold one card together.

Each lock is an ``flock`` on a file named after the card's UUID. The kernel holds
it, not the file: it is gone the moment its process ends, however it ends, and a
file that is left behind means nothing. Locks exclude processes, not the workers
within one: a process that holds a card may put several workers on it.

The files are in ``$GPUPOOL_LOCK_DIR``, which a site sets to one directory for all
its users, else in ``/tmp/gpupool-<uid>``. It is not ``$XDG_RUNTIME_DIR``, since that
is deleted at the last logout, under the feet of a run that goes on without a
terminal; the next run would then make new files and see every card as free.

A process may lend its lock to a job that it started, and gpupool inside that job then uses the
card instead of waiting for it. The lease's token stands in the lock file; the borrower locks a
file of its own beside it, so that two inside one job keep out of each other's way, and so that
the card is not free before the last of them has ended, should the parent die first.

Beside each lock there is a second file, by which a run that waits for a card says
so (:meth:`DeviceLocks.want`); a run that holds the card with idle workers only can
then let go of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.lent_locks import (
    LentLocks,
    borrowed_file,
    is_borrowed_file,
    lock_name,
)
from snakemake_executor_gpupool.devices.lock_files import (
    LOCK_DIR_VARIABLE,
    checked,
    open_directory,
    try_lock,
    why_doubtful,
)
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.errors import ConfigError

_LONGEST_NOTE_BYTES = 65536
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
        self._directory_fd = open_directory(self.directory, self._is_site)
        #: What the user should know, though the directory can be used.
        self.warning = why_doubtful(self.directory, self._directory_fd) if self._is_site else ""
        self._held: dict[str, int] = {}  # card -> the open file of its lock
        self._files: dict[str, str] = {}  # card -> the file's name
        self._lent: dict[str, list[str]] = {}  # card -> the tokens of its leases
        self._borrows = LentLocks.parse(env.get(LEASE_VARIABLE, ""))
        self._wanted: dict[str, int] = {}
        let_go_in_children(self)

    def in_child(self) -> None:
        """Close everything in a forked child, and unlock nothing: the locks are the parent's."""
        for fd in (*self._held.values(), *self._wanted.values(), self._directory_fd):
            if fd >= 0:
                os.close(fd)
        for table in (self._held, self._wanted, self._files, self._lent):
            table.clear()
        self._directory_fd = -1

    def check(self, devices: Iterable[Device]) -> None:
        """See that the locks of devices can be used, whoever holds them.

        Raises
        ------
        ConfigError
            A lock file cannot be used; the message says what mends it.
        """
        for name in filter(None, map(lock_name, devices)):
            os.close(self._open(f"{name}.lock"))

    def try_acquire(self, device: Device) -> bool:
        """Take a device's lock unless another process holds it; True if this one holds it now.

        CPU slots have no lock: all processes share the cores.

        Raises
        ------
        ConfigError
            The lock file cannot be used.
        """
        name = lock_name(device)
        if name is None or name in self._held:
            return True
        for file_name in self._ways(name):
            fd = self._locked(file_name, fcntl.LOCK_EX)
            if fd is None:
                continue
            # In this order: a borrower locks its file first and reads the lender's note then. Who
            # sees a lease that is over here has locked its file by now, and is seen in turn.
            _write_note(fd, ())
            if self._is_ours_to_take(name, file_name):
                self._held[name], self._files[name] = fd, file_name
                return True
            self._drop(file_name, fd)
        return False

    def _ways(self, name: str) -> list[str]:
        """Return the files by one of which a card is taken: its lock, or what a parent lends."""
        ways = [f"{name}.lock"]
        if name in self._borrows.files:
            ways.append(borrowed_file(name, self._borrows.token))
        return ways

    def _is_ours_to_take(self, name: str, file_name: str) -> bool:
        """Whether a file that is locked gives its card, and nobody else is on that."""
        if file_name == f"{name}.lock":
            return not self._on_the_card(name)
        return self._is_lent_to_us(name) and not self._on_the_card(name) - self._family(name)

    def _is_lent_to_us(self, name: str) -> bool:
        """Whether the parent still holds a card, and its lease for this process goes on."""
        lender = self._borrows.files.get(name)
        if lender is None:
            return False
        return self._borrows.token in self._tokens(lender) and self._is_locked(lender)

    def _on_the_card(self, name: str) -> set[str]:
        """Return the files that borrowers of a card have locked; remove those left behind."""
        locked = set()
        for file_name in os.listdir(self._directory_fd):  # noqa: PTH208 - no path, a descriptor
            if not is_borrowed_file(name, file_name):
                continue
            if self._is_locked(file_name):
                locked.add(file_name)
            else:
                self._clean_up(file_name)
        return locked

    def _family(self, name: str) -> set[str]:
        """Return the files of all who borrow a card from its present holder, or from each other."""
        lender = self._borrows.files[name]
        found = {lender}
        look_at = [f"{name}.lock", lender]
        while look_at:
            borrowers = {borrowed_file(name, token) for token in self._tokens(look_at.pop())}
            look_at += borrowers - found
            found |= borrowers
        return found

    def release(self, device: Device) -> None:
        """Let go of a device's lock, if this process holds it."""
        name = lock_name(device)
        if name in self._held:
            self._lent.pop(name, None)
            self._drop(self._files.pop(name), self._held.pop(name))

    def holder_pid(self, device: Device) -> int | None:
        """Return the process that holds a device, for a message; None: nobody, or unknown."""
        name = lock_name(device)
        if name is None:
            return None
        if name in self._held:
            return os.getpid()
        if self._is_locked(f"{name}.lock"):
            return self._pid(f"{name}.lock")
        return next((self._pid(file_name) for file_name in self._on_the_card(name)), None)

    def is_held(self, device: Device) -> bool:
        """Whether any process holds a device, this one included."""
        name = lock_name(device)
        if name is None:
            return False
        if name in self._held or self._is_locked(f"{name}.lock"):
            return True
        return bool(self._on_the_card(name))

    def is_free(self, device: Device) -> bool:
        """Whether this process holds a device, or could take it now."""
        name = lock_name(device)
        if name is None or name in self._held:
            return True
        return any(
            not self._is_locked(file_name) and self._is_ours_to_take(name, file_name)
            for file_name in self._ways(name)
        )

    # --- lending

    def is_borrowed(self, device: Device) -> bool:
        """Whether this process holds a device by its parent's lease."""
        name = lock_name(device)
        return name is not None and self._files.get(name, "").startswith(f"{name}.lent-")

    def lend(self, devices: Iterable[Device], token: str) -> LentLocks:
        """Let a job use the locks that this process holds; return what the job is to be told."""
        names = [name for name in map(lock_name, devices) if name is not None]
        held = [name for name in names if name in self._held]
        for name in held:
            if token not in self._lent.setdefault(name, []):
                self._lent[name].append(token)
                _write_note(self._held[name], self._lent[name])
        return LentLocks(token, {name: self._files[name] for name in held})

    def take_back(self, device: Device, token: str) -> bool:
        """End what was lent of a device; False if somebody of the job is still on it."""
        name = lock_name(device)
        if name not in self._held or token not in self._lent.get(name, ()):
            return True
        self._lent[name].remove(token)
        _write_note(self._held[name], self._lent[name])
        return not self._is_locked(borrowed_file(name, token))

    def lends(self, device: Device) -> bool:
        """Whether anything of a device is lent."""
        return bool(self._lent.get(lock_name(device) or ""))

    # --- asking others to let go

    def want(self, device: Device) -> None:
        """Tell the process that holds a device that this one waits for it."""
        name = lock_name(device)
        if name is None or name in self._wanted:
            return
        # Who borrows waits for those of the same job, and not for the parent.
        is_lent = self._is_lent_to_us(name)
        place = borrowed_file(name, self._borrows.token) if is_lent else name
        fd = self._locked(f"{place}.want", fcntl.LOCK_SH)
        if fd is not None:
            self._wanted[name] = fd

    def unwant(self, device: Device) -> None:
        """Wait no longer for a device."""
        _close(self._wanted, lock_name(device))

    def is_wanted(self, device: Device) -> bool:
        """Whether another process waits for a device."""
        name = lock_name(device)
        if name is None or name in self._wanted:
            return False
        place = self._files.get(name, name).removesuffix(".lock")
        return self._is_locked(f"{place}.want")

    def close(self) -> None:
        """Let go of everything."""
        for name in list(self._held):
            self._drop(self._files.pop(name), self._held.pop(name))
        for name in list(self._wanted):
            _close(self._wanted, name)
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    # --- files

    def _locked(self, file_name: str, how: int) -> int | None:
        """Open and lock a file; None if another process holds it."""
        while True:
            fd = self._open(file_name)
            if not try_lock(fd, how):
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
            return not try_lock(fd, fcntl.LOCK_EX)
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
        raise ConfigError(
            f"the lock file {self.directory / file_name} cannot be made: the directory is "
            f"removed again and again. Set {LOCK_DIR_VARIABLE} to another one"
        )

    def _open_if_there(self, file_name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError), self._explained(file_name):
            return checked(os.open(file_name, _FLAGS, dir_fd=self._directory_fd))
        return None

    @contextlib.contextmanager
    def _explained(self, file_name: str) -> Iterator[None]:
        """Turn what the system refuses into a message; pass on what a retry settles."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            told = f"cannot use {self.directory / file_name}: {error.strerror or error}"
            raise ConfigError(f"{told}. {self._remedy(error)}") from error

    def _remedy(self, error: OSError) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"Make room there, or set {LOCK_DIR_VARIABLE} to another directory"
        if self._is_site:
            quoted = shlex.quote(str(self.directory))
            return (
                f"{LOCK_DIR_VARIABLE} names a directory for all users of the machine: "
                f"chmod 1777 {quoted}, and chmod 666 the files in it"
            )
        return f"Remove it, or set {LOCK_DIR_VARIABLE} to another directory"

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

    def _drop(self, file_name: str, fd: int) -> None:
        """End a lock; a borrower's file goes with it."""
        if not file_name.endswith(".lock"):
            with contextlib.suppress(OSError):
                os.unlink(file_name, dir_fd=self._directory_fd)
        unlock(fd)

    def _clean_up(self, file_name: str) -> None:
        """Remove the file of a borrower that has ended."""
        fd = self._open_if_there(file_name)
        if fd is None:
            return
        if try_lock(fd, fcntl.LOCK_EX) and self._is_current(fd, file_name):
            self._drop(file_name, fd)
        else:
            os.close(fd)

    # --- notes: who holds a lock, and the leases that it lends to

    def _note(self, file_name: str) -> list[str]:
        fd = self._open_if_there(file_name)
        if fd is None:
            return []
        try:
            return os.pread(fd, _LONGEST_NOTE_BYTES, 0).decode("ascii", "replace").splitlines()
        finally:
            os.close(fd)

    def _pid(self, file_name: str) -> int | None:
        first = (self._note(file_name) or [""])[0]
        return int(first) if re.fullmatch(r"[0-9]{1,9}", first) else None

    def _tokens(self, file_name: str) -> set[str]:
        return set(self._note(file_name)[1:])


def _write_note(fd: int, tokens: Iterable[str]) -> None:
    """Leave this process's id, for messages, and the leases, for borrowers."""
    note = "\n".join([str(os.getpid()), *tokens, ""]).encode()
    with contextlib.suppress(OSError):
        os.pwrite(fd, note, 0)
        os.ftruncate(fd, len(note))


def _close(fds: dict[str, int], name: str | None) -> None:
    """End a lock."""
    if name in fds:
        unlock(fds.pop(name))


def unlock(fd: int) -> None:
    """Unlock a file and close it: to close it is not enough where a forked child has a copy."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
