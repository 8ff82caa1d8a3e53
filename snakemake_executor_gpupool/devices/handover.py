"""A device is handed on only when the memory of whoever left it is free."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from snakemake_executor_gpupool.devices.model import CUDA, Device
from snakemake_executor_gpupool.devices.probe import DeviceLost, compute_pids, memory_used_mib

#: What a process whose weights were moved away still holds: its CUDA context and libraries.
CONTEXT_MIB = 1024


class Handover:
    """Remembers what a device held before each worker came."""

    def __init__(self) -> None:
        self._before_mib: dict[tuple[str, str], int | None] = {}

    def arrived(self, worker_id: str, devices: Sequence[Device]) -> None:
        """Note that a worker is about to be started on devices."""
        for device in _cards(devices):
            with contextlib.suppress(DeviceLost):
                self._before_mib[worker_id, device.name] = memory_used_mib(device)

    def is_rid_of(self, devices: Sequence[Device], pid: int) -> bool:
        """Tell whether an ended process is off all of its devices; a lost card is rid of all."""
        with contextlib.suppress(DeviceLost):
            return all(pid not in compute_pids(device) for device in _cards(devices))
        return True

    def weights_are_gone(self, worker_id: str, devices: Sequence[Device]) -> bool:
        """Tell whether a living worker's weights are off all of its devices."""
        with contextlib.suppress(DeviceLost):
            return all(self._is_down(worker_id, device) for device in _cards(devices))
        return True

    def _is_down(self, worker_id: str, device: Device) -> bool:
        used_mib = memory_used_mib(device)
        before_mib = self._before_mib.get((worker_id, device.name))
        return used_mib is None or before_mib is None or used_mib <= before_mib + CONTEXT_MIB

    def left(self, worker_id: str, devices: Sequence[Device]) -> None:
        """Forget a worker."""
        for device in devices:
            self._before_mib.pop((worker_id, device.name), None)


def _cards(devices: Sequence[Device]) -> list[Device]:
    return [device for device in devices if device.kind == CUDA and not device.simulated]
