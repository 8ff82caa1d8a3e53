"""What a :class:`ToolPool` needs before it opens: a directory and its configuration."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.kinds import gpus_among
from snakemake_executor_gpupool.devices.lease import leases_around
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.records.paths import SPOOL_PREFIX
from snakemake_executor_gpupool.runtime.config import Origin, PoolConfig, build_config


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
