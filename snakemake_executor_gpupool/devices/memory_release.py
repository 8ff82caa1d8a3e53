"""Whether the memory of a worker that left a device is free, so that it can be granted again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

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

    def is_rid_of(self, devices: Sequence[Device], pid: int) -> bool:
        """Tell whether an ended process is off all of its devices; nothing is on a lost card."""
        with contextlib.suppress(DeviceLost):
            return all(pid not in compute_pids(device, self._nvml) for device in real_gpus(devices))
        return True

    def weights_are_gone(self, worker_id: str, pid: int, devices: Sequence[Device]) -> bool:
        """Tell whether a living worker's weights are off all of its devices.

        The driver's figure for the process decides. Where it has none (in a container, say),
        the card's does, if no other worker of ours came to it since; else the worker is believed.
        """
        with contextlib.suppress(DeviceLost):
            return all(self._is_down(worker_id, pid, device) for device in real_gpus(devices))
        return True

    def _is_down(self, worker_id: str, pid: int, device: Device) -> bool:
        own_mib = memory_by_pid(device, self._nvml).get(pid)
        if own_mib is not None:
            return own_mib <= MAX_LEFT_BY_MOVED_MIB
        there = self._before_mib.get(device.name, {})
        before_mib, used_mib = there.get(worker_id), memory_used_mib(device, self._nvml)
        if used_mib is None or before_mib is None or len(there) > 1:
            return True
        return used_mib <= before_mib + MAX_LEFT_BY_MOVED_MIB

    def left(self, worker_id: str, devices: Sequence[Device]) -> None:
        """Forget a worker that has ended."""
        for device in devices:
            self._before_mib.get(device.name, {}).pop(worker_id, None)
