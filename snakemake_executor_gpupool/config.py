"""What a run of the pool is configured with: one frozen value, from options and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_executor_gpupool.devices.environment import DeviceSettings, Managed, resolve
from snakemake_executor_gpupool.devices.manager import DeviceManager
from snakemake_executor_gpupool.devices.model import CPU, CUDA, Device, cpu_slot
from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.dispatch import DispatchConfig
from snakemake_executor_gpupool.errors import ConfigError


@dataclass(frozen=True)
class PoolConfig:
    """Everything that a pool needs to know before it starts.

    Attributes
    ----------
    devices
        What the pool manages, GPUs before CPU slots.
    cores
        How many cores the CPU workers share.
    run_root
        The directory that gets one subdirectory per run.
    warnings
        What the user should be told once at start.
    """

    devices: tuple[Device, ...]
    device_settings: DeviceSettings
    cores: int
    run_root: Path
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    python: str = sys.executable
    #: Directory of results kept across runs; None: none are.
    cache: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def gpus(self) -> list[Device]:
        """The managed GPUs."""
        return [device for device in self.devices if device.kind == CUDA]

    @property
    def file_workers(self) -> int:
        """How many processes may read and write for one tool."""
        return max(1, min(4, self.cores // 4))

    @property
    def worker_threads(self) -> int:
        """How many threads a worker that computes on the CPU may use."""
        slots = sum(device.kind == CPU or device.simulated for device in self.devices)
        if self.gpus and all(device.simulated for device in self.gpus):
            slots = len(self.gpus)
        return max(self.cores // max(slots, 1), 1)


def build_config(
    *,
    run_root: Path,
    cores: int | None = None,
    managed_devices: Managed | None = None,
    offload_strategy: str | None = None,
    allow_multiple_per_device: bool | None = None,
    dispatch: DispatchConfig | None = None,
    cache: str | None = None,
    env: Mapping[str, str] | None = None,
) -> PoolConfig:
    """Find the devices and put options, environment and defaults together.

    Raises
    ------
    ConfigError
        An option or an environment variable is malformed, or names a device that is not there.
    """
    env = os.environ if env is None else env
    settings = resolve(
        env,
        managed_devices=managed_devices,
        offload_strategy=offload_strategy,
        allow_multiple=allow_multiple_per_device,
        configured=DeviceManager.get_instance().options,
    )
    found = probe(env)
    cores = cores or available_cores()
    slots = default_cpu_workers(cores)
    devices = settings.choose(found.devices, slots)
    warnings = list(found.warnings)
    if not any(device.kind == CUDA for device in devices):
        warnings.append(no_gpu_warning(sum(d.kind == CPU for d in devices), cores))
    elif not any(device.kind == CPU for device in devices):
        # Tools that run on nothing else, and rules that say device="cpu", need a place too.
        devices = (*devices, cpu_slot(0))
    if any(device.simulated for device in devices):
        warnings.append(
            "GPUPOOL_SIMULATE is set: the GPUs of this run are SIMULATED, all workers compute on "
            "the CPU."
        )
    if not devices:
        raise ConfigError("there is no device to manage")
    return PoolConfig(
        devices=devices,
        device_settings=settings,
        cores=cores,
        run_root=run_root,
        dispatch=dispatch or DispatchConfig(),
        cache=Path(cache).expanduser() if cache else None,
        warnings=tuple(warnings),
    )


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


def no_gpu_warning(workers: int, cores: int) -> str:
    """Say once that everything computes on the CPU."""
    plural = "s" if workers > 1 else ""
    return (
        f"no GPU is visible: served rules run on {workers} CPU worker{plural} "
        f"that share {cores} cores"
    )
