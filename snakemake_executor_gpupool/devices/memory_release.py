"""Whether the memory of a worker that left a device is free, so that it can be granted again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import real_gpus
from snakemake_executor_gpupool.devices.probe import (
    Nvml,
    compute_pids,
    memory_by_pid,
    memory_used_mib,
)
from snakemake_executor_gpupool.errors import DeviceLost

#: What a process whose weights were moved away may still hold: its CUDA context and libraries.
MAX_LEFT_BY_MOVED_MIB = 1024


def _never(pid: int) -> bool:
    return False


class MemoryRelease:
    """Remembers which worker started on which device, and what memory was in use before.

    One thread at a time may call it.

    Parameters
    ----------
    nvml
        The library to look with; None: the real one.
    """

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml
        self._before_mib: dict[str, dict[str, int | None]] = {}

    def arrived(self, worker_id: str, devices: Sequence[Device]) -> None:
        """Note that a worker is about to be started on devices."""
        for device in real_gpus(devices):
            with contextlib.suppress(DeviceLost):
                there = self._before_mib.setdefault(device.name, {})
                there[worker_id] = memory_used_mib(device, self._nvml)

    def is_rid_of(
        self, devices: Sequence[Device], pid: int, is_its: Callable[[int], bool] = _never
    ) -> bool:
        """Tell whether an ended worker is off all of its devices; nothing is on a lost card.

        Parameters
        ----------
        pid
            The process that was started for it. In a container another one holds the memory.
        is_its
            Whether a process, given its id, belongs to it as well.
        """
        with contextlib.suppress(DeviceLost):
            there = {pid for each in real_gpus(devices) for pid in compute_pids(each, self._nvml)}
            return not any(each == pid or is_its(each) for each in there)
        return True

    def weights_are_gone(
        self,
        worker_id: str,
        pid: int,
        devices: Sequence[Device],
        is_its: Callable[[int], bool] = _never,
    ) -> bool:
        """Tell whether a living worker's weights are off all of its devices; see above.

        The driver's figure for the process decides. Where it has none (in a container, say),
        the card's does, if no other worker of ours came to it since; else the worker is believed.
        """
        with contextlib.suppress(DeviceLost):
            return all(
                self._is_down(worker_id, device, lambda each: each == pid or is_its(each))
                for device in real_gpus(devices)
            )
        return True

    def _is_down(self, worker_id: str, device: Device, is_its: Callable[[int], bool]) -> bool:
        by_pid = memory_by_pid(device, self._nvml)
        own_mib = [used_mib for pid, used_mib in by_pid.items() if is_its(pid)]
        known_mib = [used_mib for used_mib in own_mib if used_mib is not None]
        if own_mib and len(known_mib) == len(own_mib):
            return sum(known_mib) <= MAX_LEFT_BY_MOVED_MIB
        there = self._before_mib.get(device.name, {})
        before_mib, used_mib = there.get(worker_id), memory_used_mib(device, self._nvml)
        if used_mib is None or before_mib is None or len(there) > 1:
            return True
        return used_mib <= before_mib + MAX_LEFT_BY_MOVED_MIB

    def left(self, worker_id: str, devices: Sequence[Device]) -> None:
        """Forget a worker that has ended."""
        for device in devices:
            self._before_mib.get(device.name, {}).pop(worker_id, None)
