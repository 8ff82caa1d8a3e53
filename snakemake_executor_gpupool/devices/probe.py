"""What devices there are, and what is on them now: where kinds meet the machine.

The one module of the package that imports NVML or reads sysfs, and only when it is asked.
Every kind is asked in turn. The functions may be called on any thread.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.devices.device import Device, device_key
from snakemake_executor_gpupool.devices.device_kind import ProbeResult, System
from snakemake_executor_gpupool.devices.kinds import computes_on_cpu, gpu_kinds, kind_of
from snakemake_executor_gpupool.devices.nvml import Nvml
from snakemake_executor_gpupool.devices.simulate import SIMULATE_VARIABLE, simulated_devices

__all__ = [
    "Machine",
    "Nvml",
    "ProbeResult",
    "compute_pids",
    "driver_of",
    "energy_j",
    "filled_by_others",
    "memory_by_pid",
    "memory_used_mib",
    "probe",
]

FOREIGN_MEMORY_MIB = 2048
"""A card with more memory in use than this, and nothing of ours on it, counts as another's.

Below it are the driver's own reserve and a desktop's windows.
"""


class Machine(System):
    """This machine, as kinds look at it.

    Parameters
    ----------
    nvml
        The NVML library; None: the installed one, if there is one.
    sleep
        Called with seconds between tries.
    """

    def __init__(
        self, nvml: Nvml | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._given = {"pynvml": nvml}
        self._sleep = sleep

    def library(self, name: str) -> Any:
        """Return an importable Python package; None: it is not installed."""
        if self._given.get(name) is not None:
            return self._given[name]
        try:
            return importlib.import_module(name)
        except ImportError:
            return None

    def read_text(self, path: str) -> str | None:
        """Return a small file's text; None: it is not there, or not readable."""
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return None

    def list_directory(self, path: str) -> tuple[str, ...]:
        """Return the names in a directory, sorted; empty: it is not there, or not readable."""
        try:
            return tuple(sorted(entry.name for entry in Path(path).iterdir()))
        except OSError:
            return ()

    def sleep(self, delay_s: float) -> None:
        """Wait between two tries."""
        self._sleep(delay_s)


def probe(
    env: Mapping[str, str],
    nvml: Nvml | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> ProbeResult:
    """Find the GPUs that this process may use.

    Parameters
    ----------
    env
        The environment; ``CUDA_VISIBLE_DEVICES`` and ``GPUPOOL_SIMULATE`` count.
    nvml
        The NVML library; None: the real one.
    sleep
        Called between tries when NVML fails.

    Raises
    ------
    ConfigError
        ``GPUPOOL_SIMULATE`` is malformed.
    """
    simulated = simulated_devices(env)
    if simulated or env.get(SIMULATE_VARIABLE, "").strip():
        note = f"{len(simulated)} simulated GPUs ({SIMULATE_VARIABLE}): all work runs on the CPU"
        return ProbeResult(simulated, (note,))
    per_kind = [kind.find(env, Machine(nvml, sleep)) for kind in gpu_kinds()]
    devices = sorted((device for each in per_kind for device in each.devices), key=device_key)
    return ProbeResult(
        devices=tuple(devices),
        warnings=tuple(warning for each in per_kind for warning in each.warnings),
        why_none="" if devices else "; ".join(each.why_none for each in per_kind if each.why_none),
    )


# --- looking at one device again


def memory_used_mib(device: Device, nvml: Nvml | None = None) -> int | None:
    """Return the memory in use on a device, by anybody; None if that cannot be known.

    Raises
    ------
    DeviceLost
        The device is gone.
    """
    if computes_on_cpu(device):
        return None
    return kind_of(device).memory_used_mib(device, Machine(nvml))


def memory_by_pid(device: Device, nvml: Nvml | None = None) -> dict[int, int | None]:
    """Return the MiB of each process that computes on a device; None: not known.

    Raises
    ------
    DeviceLost
        The device is gone.
    """
    if computes_on_cpu(device):
        return {}
    return kind_of(device).memory_by_pid(device, Machine(nvml))


def energy_j(device: Device, nvml: Nvml | None = None) -> float | None:
    """Return the joules that a device has used since some moment; None: not known.

    Raises
    ------
    DeviceLost
        The device is gone.
    """
    if computes_on_cpu(device):
        return None
    return kind_of(device).energy_j(device, Machine(nvml))


def driver_of(devices: Iterable[Device], nvml: Nvml | None = None) -> str:
    """Return the versions of the drivers of this machine's devices, if they have some."""
    kinds = {kind_of(d).word: kind_of(d) for d in devices if not d.host and not computes_on_cpu(d)}
    return ", ".join(filter(None, (kind.driver(Machine(nvml)) for kind in kinds.values())))


def compute_pids(device: Device, nvml: Nvml | None = None) -> tuple[int, ...]:
    """Return the ids of the processes that compute on a device, as :func:`memory_by_pid` does.

    Raises
    ------
    DeviceLost
        The device is gone.
    """
    return tuple(sorted(memory_by_pid(device, nvml)))


def filled_by_others(device: Device, nvml: Nvml | None = None, ours: Collection[int] = ()) -> bool:
    """Tell whether other programs fill a device.

    Parameters
    ----------
    device, nvml
        Which device, and how to look at it.
    ours
        Process ids; the device counts as ours as long as one of them computes there.

    Raises
    ------
    DeviceLost
        The card is gone.
    """
    used_mib = memory_used_mib(device, nvml)
    if used_mib is None or used_mib <= FOREIGN_MEMORY_MIB:
        return False
    return not set(ours) & set(compute_pids(device, nvml))
