"""What a run of the pool is configured with: one frozen value, from options and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_executor_gpupool.devices.cores import available_cores, choose_devices, worker_threads
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import gpus_among, is_gpu
from snakemake_executor_gpupool.devices.manager import DeviceManager
from snakemake_executor_gpupool.devices.probe import driver_of, probe
from snakemake_executor_gpupool.devices.settings import DeviceSettings, Managed, resolve
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.early import EarlyProcesses
from snakemake_executor_gpupool.hosts.surroundings import Surroundings
from snakemake_executor_gpupool.records.events import Listener
from snakemake_executor_gpupool.records.housekeeping import Bounds
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.tool_api.mode import Mode, parse_seed
from snakemake_executor_gpupool.wire.machine import processor
from snakemake_executor_gpupool.wire.requests import ToolRef

#: How the warning that everything computes on the CPU begins.
NO_GPU = "no GPU is visible"


@dataclass(frozen=True)
class Origin:
    """Who has opened a pool, for the run's files.

    Attributes
    ----------
    frontend
        ``"snakemake"`` or ``"python"``.
    options
        The options that were given, by name; values that JSON cannot hold become text.
    versions
        Of the program that opened the pool.
    snakefile
        The workflow, if there is one.
    """

    frontend: str = "python"
    options: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    snakefile: str = ""


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
        Lines for the user, once at start.
    """

    devices: tuple[Device, ...]
    device_settings: DeviceSettings
    cores: int
    run_root: Path
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    python: str = sys.executable
    #: Directory of results kept across runs; None: none are kept.
    cache: Path | None = None
    #: A sample of the devices that may join later, in a cluster.
    expected: tuple[Device, ...] = ()
    #: How many machines there are, or may be; 0: this one alone.
    nodes: int = 0
    warnings: tuple[str, ...] = ()
    #: Whether ``run_root`` is this run's alone, and is removed at its end.
    is_temporary: bool = False
    #: Whether events and decisions are put on record.
    is_recorded: bool = False
    #: Whether the jobs still to come are looked at.
    looks_ahead: bool = True
    mode: Mode = field(default_factory=Mode)
    #: Whether it is recorded where outputs came from.
    has_provenance: bool = True
    #: What is lent by a lease of this very program, as ``GPUPOOL_LEASE`` has it; empty: nothing.
    lease: str = ""
    origin: Origin = field(default_factory=Origin)
    #: Of the file of events, before another one is begun and the one before is dropped; 0: any.
    max_events_bytes: int = 0
    #: Returns what a tool's processes start from; None: from what this process has.
    surroundings: Callable[[ToolRef], Surroundings | None] = lambda tool: None
    #: Processes that were started before the run knew what for; None: there are none.
    early: EarlyProcesses | None = None
    #: Which runs are kept when this one has ended.
    keep: Bounds = field(default_factory=Bounds)
    #: Hears of all that happens; None: nobody does.
    listener: Listener | None = None

    @property
    def gpus(self) -> list[Device]:
        """The managed GPUs."""
        return gpus_among(self.devices)

    @property
    def file_workers(self) -> int:
        """How many processes may read and write for one tool, on each machine."""
        if self.nodes:
            return 2
        return max(1, min(4, self.cores // 4))

    @property
    def worker_threads(self) -> int:
        """How many threads a worker that computes on the CPU may use."""
        return worker_threads(self.devices, self.cores)


@dataclass(frozen=True)
class Machines:
    """The machines to run on.

    Attributes
    ----------
    devices
        Those that exist now.
    expected
        A sample of those that may join later.
    nodes
        How many machines beside this one there are, or may be.
    """

    devices: tuple[Device, ...]
    warnings: tuple[str, ...] = ()
    expected: tuple[Device, ...] = ()
    nodes: int = 0


def this_machine(settings: DeviceSettings, env: Mapping[str, str], cores: int) -> Machines:
    """Return the devices of this machine that the pool may use.

    Raises
    ------
    ConfigError
        The settings name a device that does not exist.
    """
    probed = probe(env)
    devices = choose_devices(settings, probed, cores)
    warnings = probed.warnings
    if not gpus_among(devices):
        warnings += (no_gpu_warning(sum(not is_gpu(device) for device in devices), cores),)
    return Machines(devices, warnings)


def build_config(
    *,
    run_root: Path,
    cores: int | None = None,
    managed_devices: Managed | None = None,
    offload_strategy: str | None = None,
    allow_multiple_per_device: bool | None = None,
    dispatch: DispatchConfig | None = None,
    cache: str | None = None,
    reproducible: bool | None = None,
    seed: int | str | None = None,
    env: Mapping[str, str] | None = None,
    find: Callable[[DeviceSettings], Machines] | None = None,
) -> PoolConfig:
    """Find the devices and put options, environment and defaults together.

    ``find`` returns the machines for the settings; None: this machine alone.

    Raises
    ------
    ConfigError
        An option or an environment variable is malformed, or names a device that does not exist.
    """
    env = os.environ if env is None else env
    settings = resolve(
        env,
        managed_devices=managed_devices,
        offload_strategy=offload_strategy,
        allow_multiple=allow_multiple_per_device,
        configured=DeviceManager.get_instance().options,
    )
    cores = cores or available_cores()
    machines = find(settings) if find else this_machine(settings, env, cores)
    devices = machines.devices
    warnings = list(machines.warnings)
    if any(device.simulated for device in devices):
        warnings.append(
            "GPUPOOL_SIMULATE is set: the GPUs of this run are SIMULATED, all workers compute on "
            "the CPU."
        )
    if not devices and not machines.expected:
        raise ConfigError("there is no device to manage")
    return PoolConfig(
        devices=devices,
        device_settings=settings,
        cores=cores,
        run_root=run_root,
        dispatch=dispatch or DispatchConfig(),
        cache=_cache_path(cache) if cache else None,
        expected=machines.expected,
        nodes=machines.nodes,
        warnings=tuple(warnings),
        is_recorded=_is_recorded(env),
        looks_ahead=_looks_ahead(env),
        mode=chosen_mode(env, reproducible, seed, (*devices, *machines.expected)),
        has_provenance=_has_provenance(env),
    )


def chosen_mode(
    env: Mapping[str, str],
    reproducible: bool | None,
    seed: int | str | None,
    devices: Sequence[Device],
) -> Mode:
    """Return how a run computes, from options, else from the environment.

    Raises
    ------
    ConfigError
        A value is malformed, or a reproducible run has cards of several models: which of them
        computes an item would be chance.
    """
    asked = Mode.of(env)
    is_reproducible = asked.is_reproducible if reproducible is None else reproducible
    chosen = asked.seed if seed is None else parse_seed(str(seed), "the seed")
    if not is_reproducible:
        return Mode(seed=chosen)
    models = {_model_of(device) for device in gpus_among(devices)}
    if len(models) > 1:
        raise ConfigError(
            "a reproducible run needs GPUs of one model, for results depend on it; these are "
            f"{', '.join(sorted(models))}. Choose those of one model with --gpupool-devices"
        )
    simulated = ["simulated" for device in devices if device.simulated][:1]
    kind = [*models, *simulated, driver_of(devices), processor()]
    return Mode(is_reproducible, chosen, "; ".join(filter(None, kind)))


def _model_of(gpu: Device) -> str:
    """Return what of a GPU decides the bits of a result; of a slice, its size, too."""
    size = f" of {gpu.memory_mib} MiB" if gpu.is_mig else ""
    return f"{gpu.kind}: {gpu.model_name or 'of unknown model'}{size}"


def _looks_ahead(env: Mapping[str, str]) -> bool:
    text = env.get("GPUPOOL_LOOKAHEAD", "").strip()
    if text not in ("", "0", "1"):
        raise ConfigError(f"GPUPOOL_LOOKAHEAD is {text!r}: 0 plans with ready jobs alone")
    return text != "0"


def _is_recorded(env: Mapping[str, str]) -> bool:
    text = env.get("GPUPOOL_RECORD", "").strip()
    if text not in ("", "0", "1"):
        raise ConfigError(f"GPUPOOL_RECORD is {text!r}: 1 records the run, 0 does not")
    return text == "1"


def _has_provenance(env: Mapping[str, str]) -> bool:
    text = env.get("GPUPOOL_PROVENANCE", "").strip().lower()
    if text not in ("", "on", "off"):
        raise ConfigError(f"GPUPOOL_PROVENANCE is {text!r}: it is on or off; default: on")
    return text != "off"


def _cache_path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # that user has no home directory
        raise ConfigError(f"the cache {text}: {error}") from error


def no_gpu_warning(workers: int, cores: int) -> str:
    """Return the warning that everything computes on the CPU."""
    plural = "s" if workers > 1 else ""
    return (
        f"no GPU is visible: served rules run on {workers} CPU worker{plural} "
        f"that share {cores} cores"
    )
