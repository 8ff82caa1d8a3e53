"""How this machine's cores are shared out among CPU workers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.kinds import computes_on_cpu, gpus_among, is_gpu
from snakemake_executor_gpupool.devices.probe import ProbeResult
from snakemake_executor_gpupool.devices.settings import DeviceSettings


def choose_devices(settings: DeviceSettings, probed: ProbeResult, cores: int) -> tuple[Device, ...]:
    """Return the devices of this machine that the pool may use, CPU slots among them.

    Raises
    ------
    ConfigError
        The settings name a device that is not there.
    """
    devices = settings.choose(probed.devices, default_cpu_workers(cores))
    if not all(map(is_gpu, devices)):
        return devices
    # Tools that run on nothing else, and rules that say device="cpu", need a place too.
    return (*devices, cpu_slot(0))


def worker_threads(devices: Sequence[Device], cores: int) -> int:
    """Return how many threads a worker that computes on the CPU may use."""
    gpus = gpus_among(devices)
    if gpus and all(device.simulated for device in gpus):
        slots = len(gpus)
    else:
        slots = sum(map(computes_on_cpu, devices))
    return max(cores // max(slots, 1), 1)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def default_cpu_workers(cores: int) -> int:
    """Return how many CPU workers to run on a machine without a GPU.

    Small models gain little from more than a few threads each, and two workers with one
    thread beat one with two (docs/benchmarks.md); each worker holds its own copy of the
    weights, which bounds their number on large machines.
    """
    return max(1, min(cores, 4)) if cores <= 4 else max(4, cores // 4)
