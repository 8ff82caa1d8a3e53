"""One lock per GPU, so that several runs on a machine never hold one card together.

Each lock is an ``flock`` on a file named after the card's UUID. The kernel holds
it, not the file: it is gone the moment its process ends, however it ends, and a
file that is left behind means nothing. Locks exclude processes, not the workers
within one: a process that holds a card may put several workers on it.

The files are in ``$GPUPOOL_LOCK_DIR``, which a site sets to one directory for all
its users, else in ``/tmp/gpupool-<uid>``. It is not ``$XDG_RUNTIME_DIR``, since that
is deleted at the last logout, also while a run goes on without a terminal; the next run would
then make new files and see every card as free.

A process may lend its lock to a job that it started, and gpupool inside that job then uses the
card instead of waiting for it. The lease's token stands in the lock file; the borrower locks a
file of its own beside it, so that two inside one job exclude each other, and so that the
card is not free before the last of them has ended, should the parent die first.

Beside each lock there is a second file, by which a run that waits for a card says
so (:meth:`DeviceLocks.want`); a run that holds the card with idle workers only can
then release it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
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
    LockFiles,
    close_lock,
    write_note,
)
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE


class DeviceLocks:
    """The locks that one process holds. Nothing here waits.

    One thread at a time may call it.

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
        self.directory = Path(site) if site else Path("/tmp") / f"gpupool-{os.getuid()}"  # noqa: S108 - checked when it is opened
        self._files = LockFiles(self.directory, is_site=bool(site))
        #: What the user should know, though the directory can be used.
        self.warning = self._files.warning
        self._held: dict[str, int] = {}  # card -> the open file of its lock
        self._file_names: dict[str, str] = {}  # card -> the file's name
        self._lent: dict[str, list[str]] = {}  # card -> the tokens of its leases
        self._borrows = LentLocks.parse(env.get(LEASE_VARIABLE, ""))
        self._wanted: dict[str, int] = {}
        let_go_in_children(self)

    def in_child(self) -> None:
        """Close everything in a forked child, and unlock nothing: the locks are the parent's."""
        for fd in (*self._held.values(), *self._wanted.values()):
            os.close(fd)
        self._files.close()
        for table in (self._held, self._wanted, self._file_names, self._lent):
            table.clear()

    def check(self, devices: Iterable[Device]) -> None:
        """Check that the locks of devices can be used, whichever process holds them.

        Raises
        ------
        ConfigError
            A lock file cannot be used; the message says what to do.
        """
        for name in filter(None, map(lock_name, devices)):
            os.close(self._files.open(f"{name}.lock"))

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
            fd = self._files.lock(file_name, fcntl.LOCK_EX)
            if fd is None:
                continue
            # In this order: a borrower locks its file first and reads the lender's note then. Who
            # sees a lease that is over here has locked its file by now, and is seen in turn.
            write_note(fd, ())
            if self._is_ours_to_take(name, file_name):
                self._held[name], self._file_names[name] = fd, file_name
                return True
            self._files.end(file_name, fd)
        return False

    def _ways(self, name: str) -> list[str]:
        """Return the files by one of which a card is taken: its lock, or what a parent lends."""
        ways = [f"{name}.lock"]
        if name in self._borrows.files:
            ways.append(borrowed_file(name, self._borrows.token))
        return ways

    def _is_ours_to_take(self, name: str, file_name: str) -> bool:
        """Tell whether a locked file gives its card, with no other process on that."""
        if file_name == f"{name}.lock":
            return not self._on_the_card(name)
        return self._is_lent_to_us(name) and not self._on_the_card(name) - self._family(name)

    def _is_lent_to_us(self, name: str) -> bool:
        """Tell whether the parent still holds a card, and its lease for this process goes on."""
        lender = self._borrows.files.get(name)
        if lender is None:
            return False
        return self._borrows.token in self._files.tokens(lender) and self._files.is_locked(lender)

    def _on_the_card(self, name: str) -> set[str]:
        """Return the files that borrowers of a card have locked; remove those left behind."""
        locked = set()
        for file_name in self._files.names():
            if not is_borrowed_file(name, file_name):
                continue
            if self._files.is_locked(file_name):
                locked.add(file_name)
            else:
                self._files.clean_up(file_name)
        return locked

    def _family(self, name: str) -> set[str]:
        """Return the files of all who borrow a card from its present holder, or from each other."""
        lender = self._borrows.files[name]
        family = {lender}
        look_at = [f"{name}.lock", lender]
        while look_at:
            borrowers = {borrowed_file(name, token) for token in self._files.tokens(look_at.pop())}
            look_at += borrowers - family
            family |= borrowers
        return family

    def release(self, device: Device) -> None:
        """Release a device's lock, if this process holds it."""
        name = lock_name(device)
        if name in self._held:
            self._lent.pop(name, None)
            self._files.end(self._file_names.pop(name), self._held.pop(name))

    def holder_pid(self, device: Device) -> int | None:
        """Return the process that holds a device, for messages; None: none, or unknown."""
        name = lock_name(device)
        if name is None:
            return None
        if name in self._held:
            return os.getpid()
        if self._files.is_locked(f"{name}.lock"):
            return self._files.pid(f"{name}.lock")
        return next((self._files.pid(file_name) for file_name in self._on_the_card(name)), None)

    def is_held(self, device: Device) -> bool:
        """Tell whether any process holds a device, this one included."""
        name = lock_name(device)
        if name is None:
            return False
        if name in self._held or self._files.is_locked(f"{name}.lock"):
            return True
        return bool(self._on_the_card(name))

    def is_free(self, device: Device) -> bool:
        """Tell whether this process holds a device, or could take it now."""
        name = lock_name(device)
        if name is None or name in self._held:
            return True
        return any(
            not self._files.is_locked(file_name) and self._is_ours_to_take(name, file_name)
            for file_name in self._ways(name)
        )

    # --- lending

    def is_borrowed(self, device: Device) -> bool:
        """Tell whether this process holds a device by its parent's lease."""
        name = lock_name(device)
        return name is not None and self._file_names.get(name, "").startswith(f"{name}.lent-")

    def lend(self, devices: Iterable[Device], token: str) -> LentLocks:
        """Let a job use the locks that this process holds; return what to tell the job."""
        names = [name for name in map(lock_name, devices) if name is not None]
        held = [name for name in names if name in self._held]
        for name in held:
            if token not in self._lent.setdefault(name, []):
                self._lent[name].append(token)
                write_note(self._held[name], self._lent[name])
        return LentLocks(token, {name: self._file_names[name] for name in held})

    def take_back(self, device: Device, token: str) -> bool:
        """End a lease of a device; False if a process of the job is still on it."""
        name = lock_name(device)
        if name not in self._held or token not in self._lent.get(name, ()):
            return True
        self._lent[name].remove(token)
        write_note(self._held[name], self._lent[name])
        return not self._files.is_locked(borrowed_file(name, token))

    def lends(self, device: Device) -> bool:
        """Tell whether a device is lent to any job."""
        return bool(self._lent.get(lock_name(device) or ""))

    # --- asking others to release

    def want(self, device: Device) -> None:
        """Show the process that holds a device that this one waits for it."""
        name = lock_name(device)
        if name is None or name in self._wanted:
            return
        # A borrower waits for others of the same job, and not for the parent.
        is_lent = self._is_lent_to_us(name)
        place = borrowed_file(name, self._borrows.token) if is_lent else name
        fd = self._files.lock(f"{place}.want", fcntl.LOCK_SH)
        if fd is not None:
            self._wanted[name] = fd

    def unwant(self, device: Device) -> None:
        """Withdraw :meth:`want`."""
        close_lock(self._wanted, lock_name(device))

    def is_wanted(self, device: Device) -> bool:
        """Tell whether another process waits for a device."""
        name = lock_name(device)
        if name is None or name in self._wanted:
            return False
        place = self._file_names.get(name, name).removesuffix(".lock")
        return self._files.is_locked(f"{place}.want")

    def close(self) -> None:
        """Release everything."""
        for name in list(self._held):
            self._files.end(self._file_names.pop(name), self._held.pop(name))
        for name in list(self._wanted):
            close_lock(self._wanted, name)
        self._files.close()
