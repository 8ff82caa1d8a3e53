"""The first event of a run."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

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
        **_workflow(origin.snakefile),
        "mode": "reproducible" if config.mode.is_reproducible else "default",
        "seed": config.mode.seed,
        "versions": {**own, **origin.versions},
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cwd": _here(),
    }


def _workflow(snakefile: str) -> dict[str, str]:
    """Return the workflow's main file and its SHA-256, as far as they are known."""
    if not snakefile:
        return {}
    try:
        content = Path(snakefile).read_bytes()
    except OSError:  # it is on another machine, or nobody may read it
        return {"snakefile": snakefile}
    return {"snakefile": snakefile, "snakefile_sha256": hashlib.sha256(content).hexdigest()}


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a plain string
    except OSError:  # it has been removed
        return ""
