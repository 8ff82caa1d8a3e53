"""The devices that this process owns: held by locks, after a look at the card.

The allocator decides within one process; the code that carries out its grants asks
:class:`DeviceOwnership` whether the devices can really be had::

    for effect in effects:                       # Granted(request_id, devices)
        refusal = ownership.take(effect.devices)
        if refusal is not None:
            more = refusal.tell(allocator, now_s)  # another process holds it, or it is broken
            more += allocator.retry(effect.request_id, now_s)

    ownership.keep_only(names of the devices that a worker of this process is on)
    for name in ownership.given_back(): allocator.foreign(name, False, now_s)
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.allocator import AllocationEffect, Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.lent_locks import LentLocks, lock_name, new_token
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.probe import Nvml, filled_by_others, memory_used_mib
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.errors import DeviceLost


@dataclass(frozen=True)
class Refusal:
    """A device that cannot be had now, or never (``lost``), and why."""

    device: Device
    why: str
    lost: bool = False

    def tell(self, allocator: Allocator, now_s: float) -> list[AllocationEffect]:
        """Report it to the allocator, and return the effects."""
        if self.lost:
            return allocator.lost(self.device.name, now_s)
        return allocator.foreign(self.device.name, True, now_s)


class DeviceOwnership:
    """The devices that this process holds against others.

    Parameters
    ----------
    env
        The environment (``GPUPOOL_LOCK_DIR``).
    nvml
        The NVML library; None: the real one.
    """

    def __init__(self, env: Mapping[str, str], nvml: Nvml | None = None) -> None:
        self._env = env
        self._nvml = nvml
        self._opened: DeviceLocks | None = None
        self._held: dict[str, Device] = {}
        self._refused: dict[str, Device] = {}
        self._tokens: dict[str, str] = {}
        self._lent: dict[str, list[Device]] = {}
        let_go_in_children(self)

    def in_child(self) -> None:
        """Hold nothing in a forked child; the locks close themselves."""
        self._held.clear()
        self._refused.clear()
        self._opened = None
        self._tokens.clear()
        self._lent.clear()

    @property
    def _locks(self) -> DeviceLocks:
        """The locks; made on first need, so that a run without GPUs makes no directory."""
        if self._opened is None:
            self._opened = DeviceLocks(self._env)
        return self._opened

    def open(self, devices: Sequence[Device]) -> str:
        """Check that the locks of devices can be used; return a warning, or an empty string.

        Raises
        ------
        ConfigError
            The lock directory, or a lock file, cannot be used.
        """
        locked = [device for device in devices if device.uuid]
        if not locked:
            return ""
        self._locks.check(locked)
        return self._locks.warning

    def take(
        self, devices: Sequence[Device], ours: Collection[int] = (), *, asks: bool = True
    ) -> Refusal | None:
        """Take all of these devices, or none.

        Parameters
        ----------
        devices
            As granted by the allocator. Those that this process holds already stay held.
        ours
            Processes of ours that may still be on a device without holding it.
        asks
            Whether the process that holds a refused device is asked to make room.

        Returns
        -------
        Refusal or None
            The first device that cannot be had; None: all are taken.

        Raises
        ------
        ConfigError
            The lock directory cannot be used.
        """
        new = [device for device in devices if device.uuid and device.name not in self._held]
        for number, device in enumerate(new):
            refusal = self._take_one(device, ours)
            if refusal is not None:
                self._let_go(new[:number])
                if not refusal.lost:
                    self._refused[device.name] = device
                    if asks:
                        self._locks.want(device)
                return refusal
        return None

    def _take_one(self, device: Device, ours: Collection[int]) -> Refusal | None:
        if not self._locks.try_acquire(device):
            return Refusal(device, self._who_holds(device))
        refusal = self._look(device, ours)
        if refusal is not None:
            self._locks.release(device)
            return refusal
        self._held[device.name] = device
        return None

    def _who_holds(self, device: Device) -> str:
        pid = self._locks.holder_pid(device)
        who = f"process {pid}" if pid else "another process"
        return f"{device.name} is held by {who}, another run of gpupool"

    def _look(self, device: Device, ours: Collection[int]) -> Refusal | None:
        """Look whether the card works and is empty."""
        try:
            # What fills a card that was lent to this process belongs to the job that it is part of.
            is_filled = filled_by_others(device, self._nvml, {os.getpid(), *ours})
            if not is_filled or self._locks.is_borrowed(device):
                return None
            used_mib = memory_used_mib(device, self._nvml)
        except DeviceLost as error:
            return Refusal(device, str(error), lost=True)
        return Refusal(
            device,
            f"{device.name} is left alone: something else uses {used_mib} MiB of its memory",
        )

    def keep_only(self, names: Iterable[str]) -> None:
        """Release all held devices but these."""
        keep = set(names)
        self._let_go([device for device in self._held.values() if device.name not in keep])

    def _let_go(self, devices: Iterable[Device]) -> None:
        for device in list(devices):
            self._held.pop(device.name, None)
            self._locks.release(device)

    def given_back(self, ours: Collection[int] = (), *, asks: bool = True) -> list[str]:
        """Look again at the refused devices.

        Return the names of those that are free by now. They are not taken: another process may
        still be faster. ``asks``: requests wait for them, and who holds the others is asked to make
        room.
        """
        free = []
        for device in list(self._refused.values()):
            if self._is_free(device, ours):
                self._locks.unwant(device)
                del self._refused[device.name]
                free.append(device.name)
            elif asks:
                self._locks.want(device)
        return free

    def _is_free(self, device: Device, ours: Collection[int]) -> bool:
        # A card that broke meanwhile counts as free: the next grant of it finds that out.
        refusal = self._look(device, ours)
        return (refusal is None or refusal.lost) and self._locks.is_free(device)

    # -- what jobs may use of it -----------------------------------------------------------

    def lend(self, holder: str, devices: Iterable[Device], token: str = "") -> dict[str, str]:
        """Let a job, and gpupool inside it, use devices that this process holds.

        Parameters
        ----------
        holder
            Names who holds them; one who held some before keeps its token.
        devices
            Which ones.
        token
            One that the job knows already; empty: a new one.

        Returns
        -------
        dict
            What the job's environment must say, beside which devices it sees.
        """
        held = [device for device in devices if device.name in self._held]
        if not held:
            return {}
        token = self._tokens.setdefault(holder, token or new_token())
        self._lent[holder] = held
        return {LEASE_VARIABLE: str(self._locks.lend(held, token))}

    def lend_named(self, holder: str, lent: LentLocks) -> None:
        """Let a job use those of the held devices that its lease names."""
        named = [device for device in self._held.values() if lock_name(device) in lent.files]
        self.lend(holder, named, lent.token)

    def take_back(self, holder: str, *, is_gone: bool = True) -> None:
        """End what was lent to a job.

        If a process that the job has left behind is still on a device, that device is released: it
        counts as another process's, which it is, until that process has ended.
        """
        token = self._tokens.get(holder, "")
        for device in self._lent.pop(holder, ()):
            is_free = self._locks.take_back(device, token)
            if not is_free and not self._locks.lends(device):
                self._let_go([device])
        if is_gone:
            self._tokens.pop(holder, None)

    def wanted(self) -> list[Device]:
        """Return the held devices that another run waits for."""
        if self._opened is None:
            return []
        return [device for device in self._held.values() if self._locks.is_wanted(device)]

    @property
    def refused(self) -> tuple[str, ...]:
        """The devices that were refused and are not yet given back."""
        return tuple(self._refused)

    def forget_refused(self) -> None:
        """Note that nothing here waits any more, so that others need not make room."""
        for device in self._refused.values():
            self._locks.unwant(device)

    def close(self) -> None:
        """Release everything."""
        self._held.clear()
        self._lent.clear()
        self._refused.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None
