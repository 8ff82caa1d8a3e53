"""The first event of a run."""

from __future__ import annotations

import os
import socket
import sys

from snakemake_executor_gpupool.devices.probe import driver_of
from snakemake_executor_gpupool.records.events import FORMAT
from snakemake_executor_gpupool.runtime.config import PoolConfig


def start_of(config: PoolConfig) -> dict[str, object]:
    """Return the fields of a run's first event: its devices, options and versions."""
    origin, devices = config.origin, config.devices
    own = {"python": "{}.{}.{}".format(*sys.version_info)}
    return {
        "format": FORMAT,
        "devices": [device.name for device in devices],
        "simulated": any(device.simulated for device in devices),
        "device_info": [
            {
                "name": device.name,
                "kind": device.kind,
                "model": device.model_name,
                "memory_mib": device.memory_mib,
                "uuid": device.uuid,
                "node": device.host,
                "simulated": device.simulated,
            }
            for device in devices
        ],
        "driver": driver_of(devices),
        "frontend": origin.frontend,
        "options": dict(origin.options),
        "mode": "reproducible" if config.mode.is_reproducible else "default",
        "seed": config.mode.seed,
        "versions": {**own, **origin.versions},
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cwd": _here(),
    }


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a plain string
    except OSError:  # it has been removed
        return ""
