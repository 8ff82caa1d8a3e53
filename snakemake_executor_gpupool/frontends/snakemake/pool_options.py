"""What the executor's settings make of the pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.frontends.snakemake.early import take
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.records.housekeeping import Bounds
from snakemake_executor_gpupool.runtime.config import Machines, Origin, PoolConfig, build_config
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import idle_time


def origin_of(workflow: Any, settings: ExecutorSettings) -> Origin:
    """Return what the run's files say of how it was started: the options that were given."""
    from snakemake import __version__ as snakemakes_version

    given = {
        f"--gpupool-{each.name.replace('_', '-')}": getattr(settings, each.name)
        for each in dataclasses.fields(settings)
        if getattr(settings, each.name) != each.default
    }
    limits = workflow.resource_settings
    snakemakes = {"--jobs": limits.nodes, "--cores": limits.cores}
    given |= {name: value for name, value in snakemakes.items() if value is not None}
    versions = {"gpupool": __version__, "snakemake": snakemakes_version}
    return Origin(
        "snakemake", given, versions, str(getattr(workflow, "main_snakefile", None) or "")
    )


def bounds_of(settings: ExecutorSettings) -> Bounds:
    """Return which runs are kept.

    Raises
    ------
    WorkflowError
        A number is negative.
    """
    for name in ("keep_runs", "keep_runs_mib"):
        if getattr(settings, name) < 0:
            option = f"--gpupool-{name.replace('_', '-')}"
            raise WorkflowError(f"gpupool: {option} is a number from 0 on, where 0 is no bound")
    return Bounds(settings.keep_runs, settings.keep_runs_mib)


def pool_config(
    workflow: Any,
    settings: ExecutorSettings,
    cores: int,
    find: Callable[[DeviceSettings], Machines] | None = None,
) -> PoolConfig:
    """Return what the settings make of the pool; ``find`` as ``build_config`` takes it.

    Raises
    ------
    ConfigError
        An option is malformed, or names a device that does not exist.
    """
    return build_config(
        run_root=Path(workflow.persistence.path) / "gpupool",
        cores=cores,
        managed_devices=settings.devices,
        offload_strategy=settings.offload_strategy,
        # A flag can only be set; without it the environment variable counts.
        allow_multiple_per_device=settings.allow_multiple_per_device or None,
        dispatch=dispatch_config(settings),
        cache=settings.cache,
        reproducible=settings.reproducible or None,
        seed=settings.seed,
        find=find,
    )


def of_this_run(config: PoolConfig, workflow: Any, settings: ExecutorSettings) -> PoolConfig:
    """Return a configuration with what is this run's alone: its origin, what it has started early.

    Raises
    ------
    WorkflowError
        A bound is negative.
    """
    origin, keep = origin_of(workflow, settings), bounds_of(settings)
    return dataclasses.replace(config, origin=origin, keep=keep, early=take(workflow, settings))


def dispatch_config(settings: ExecutorSettings) -> DispatchConfig:
    """Return the dispatch options out of the executor's settings."""
    config = DispatchConfig(idle=idle_time(settings.idle_timeout))
    if settings.batch_window is None:
        return config
    return dataclasses.replace(config, batch_window_s=settings.batch_window)
