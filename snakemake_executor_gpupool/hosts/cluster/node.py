"""What a run must know of a node: its name, devices, cores, and remaining time."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from snakemake_executor_gpupool.devices.cores import available_cores
from snakemake_executor_gpupool.devices.simulate import SIMULATE_VARIABLE
from snakemake_executor_gpupool.devices.visibility import SIMULATED_VARIABLE

#: The Dask resource that counts a worker's cores; without it, its threads count.
CORES = "gpupool-cores"

_STARTED_S = time.monotonic()


def node_name(env: Mapping[str, str]) -> str:
    """Return what the batch system calls this machine, else its own short name."""
    return env.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def device_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the device probe: it shows only what the batch system assigned.

    A Slurm job that asked for no GPU has no ``CUDA_VISIBLE_DEVICES``, and on many sites sees
    every card nonetheless. Simulated cards are assigned by the same variable as real ones.
    """
    looked = dict(env)
    if "SLURM_JOB_ID" in env:
        looked.setdefault("CUDA_VISIBLE_DEVICES", "")
    if env.get(SIMULATE_VARIABLE, "").strip():
        looked[SIMULATED_VARIABLE] = "1"
    return looked


def node_cores(env: Mapping[str, str]) -> int:
    """Return how many cores are ours, by the batch system or else by the kernel."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NCPUS", "NSLOTS"):
        if env.get(name, "").isdecimal():
            return min(int(env[name]), os.cpu_count() or 1)
    return available_cores()


def ends_in_s(env: Mapping[str, str], walltime_s: float | None) -> float | None:
    """Return how many seconds this node remains ours; None: no limit is known."""
    left_s = _slurm_left_s(env)
    if left_s is not None or walltime_s is None:
        return left_s
    return max(walltime_s - (time.monotonic() - _STARTED_S), 0.0)


def _slurm_left_s(env: Mapping[str, str]) -> float | None:
    job = env.get("SLURM_JOB_ID")
    if not job:
        return None
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%L"],  # noqa: S607 - the site's own
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return parse_time_s(asked.stdout.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def parse_time_s(text: str) -> float:
    """Read a time as batch systems write it: ``minutes``, ``[days-]hours:minutes:seconds``.

    Raises
    ------
    ValueError
        It is not a time.

    Examples
    --------
    >>> parse_time_s("1-02:00:00"), parse_time_s("05:30"), parse_time_s("90")
    (93600.0, 330.0, 5400.0)
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"{text!r} is not a time")
    if dash:  # days-hours, days-hours:minutes, days-hours:minutes:seconds
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (0, *parts)[-3:]
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def why_not_shared(probe: str, token: str, cwd: str, wait_s: float) -> str | None:
    """Return why this node cannot take part: it sees another file system. None: it can.

    Writes an answer beside the probe, which the coordinator must then see.
    """
    deadline_s = time.monotonic() + wait_s
    path = Path(probe)
    while True:
        try:
            if path.read_text(encoding="utf-8") == token and Path(cwd).is_dir():
                path.with_suffix(f".{token}").write_text(token, encoding="utf-8")
                return None
            problem = f"{cwd} is not the same directory there"
        except OSError as error:
            problem = f"{error.strerror}: {error.filename}"
        if time.monotonic() > deadline_s:
            return problem
        os.scandir(path.parent if path.parent.is_dir() else "/").close()
        time.sleep(0.2)
