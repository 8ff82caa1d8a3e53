"""What a :class:`ToolPool` needs before it opens: a directory and its configuration."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.kinds import gpus_among
from snakemake_executor_gpupool.devices.lease import leases_around
from snakemake_executor_gpupool.devices.settings import (
    MANAGED_VARIABLES,
    MULTIPLE_VARIABLES,
    STRATEGY_VARIABLES,
    managed_text,
)
from snakemake_executor_gpupool.errors import ConfigError, JobFailed
from snakemake_executor_gpupool.records.paths import SPOOL_PREFIX
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import Origin, PoolConfig, build_config
from snakemake_executor_gpupool.runtime.elsewhere import LOST_CALL
from snakemake_executor_gpupool.runtime.pool import Pool

T = TypeVar("T")


def temporary_directory() -> Path:
    """Create a directory for a pool's files.

    Raises
    ------
    ConfigError
        It cannot be created; the disk is full, for example.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=SPOOL_PREFIX))
    except OSError as error:
        raise ConfigError(
            f"a ToolPool needs a directory for temporary files: {error}; set TMPDIR to one"
        ) from error


def configured(run_root: Path, options: Mapping[str, Any]) -> PoolConfig:
    """Return the configuration of a pool; inside a lease it has the devices of the lease alone.

    Parameters
    ----------
    run_root
        The pool's own directory, removed at its end.
    options
        Arguments of :func:`~snakemake_executor_gpupool.runtime.config.build_config`.

    Raises
    ------
    ConfigError
        An option is malformed, or names a device that does not exist.
    """
    arguments = dict(options)
    lease = next((lease for lease in reversed(leases_around()) if lease.lent), None)
    if lease is not None and arguments["managed_devices"] is None:
        arguments["managed_devices"] = [device.name for device in gpus_among(lease.devices)]
    config = build_config(run_root=run_root, **arguments)
    lent = lease.lent if lease is not None else ""
    given = {n: v for n, v in options.items() if v is not None and n != "dispatch"}
    origin = Origin("python", given, {"gpupool": __version__})
    return dataclasses.replace(config, is_temporary=True, lease=lent, origin=origin)


def opened_pool(
    config: PoolConfig, callbacks: Callbacks, server: str, options: Mapping[str, Any]
) -> Pool:
    """Return the pool, whose work a server does if that is asked for.

    Raises
    ------
    ConfigError
        There is to be a server, and there is none.
    """
    if server == "off":
        return Pool(config, callbacks)
    # What follows is not imported by other pools.
    from snakemake_executor_gpupool.frontends.server.attaching import open_attached

    given: dict[str, str] = {}
    if options["managed_devices"] is not None:
        given[MANAGED_VARIABLES[0]] = managed_text(options["managed_devices"])
    if options["offload_strategy"] is not None:
        given[STRATEGY_VARIABLES[0]] = options["offload_strategy"]
    if options["allow_multiple_per_device"] is not None:
        given[MULTIPLE_VARIABLES[0]] = str(int(options["allow_multiple_per_device"]))
    attached = open_attached(server, "server", config, callbacks, given)
    return attached or Pool(config, callbacks)


def tried_again(call: Callable[[], T]) -> T:
    """Make a call, and once more if it went down with a server, after which there is none.

    Raises
    ------
    JobFailed
        It failed.
    """
    try:
        return call()
    except JobFailed as error:
        if LOST_CALL not in str(error):
            raise
    return call()
