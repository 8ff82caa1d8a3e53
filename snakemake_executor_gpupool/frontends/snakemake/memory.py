"""How much memory the lane's jobs may ask for together, by their ``mem_mb``.

Megabytes here are Snakemake's: millions of bytes.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import psutil

from snakemake_executor_gpupool.errors import ConfigError

#: The value of ``--gpupool-memory`` that leaves memory unlimited.
OFF = "off"
_MB = 1_000_000
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def memory_budget(option: str | None) -> int | None:
    """Return what ``--gpupool-memory`` says, in MB; None: there is no limit.

    Raises
    ------
    ConfigError
        It is neither ``off`` nor a size.
    """
    if option is None:
        return machine_mb()
    text = str(option).strip()
    if text == OFF:
        return None
    from humanfriendly import InvalidSize, parse_size

    try:
        budget_mb = int(text) if text.isdecimal() else int(parse_size(text)) // _MB
    except InvalidSize:
        budget_mb = 0
    if budget_mb <= 0:
        raise ConfigError(
            f"--gpupool-memory {text} is not understood: give a size, as in 64GB, a number of MB, "
            f"or {OFF}"
        )
    return budget_mb


def machine_mb() -> int:
    """Return this machine's memory in MB, or what its control group allows of it."""
    limits = [psutil.virtual_memory().total, *cgroup_limits(CGROUPS, OWN_CGROUP)]
    return int(min(limits)) // _MB


def cgroup_limits(root: Path, own: Path) -> list[int]:
    """Return the limits in bytes of this process's control groups, of either version."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "memory" if controllers else root
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        place = top / path.strip("/")
        for group in (place, *place.parents):
            limits += _limit(group / name)
            if group == top:
                break
    return limits


def _limit(path: Path) -> list[int]:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() and int(text) > 0 else []


def asked_mb(job: Any) -> int:
    """Return a job's ``mem_mb``; 0: it does not say, or it is not known.

    For executors that are not its local one Snakemake makes up a value for rules that say nothing,
    of the sizes of inputs.
    """
    value = job.resources.get("mem_mb")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not any(map(_says, job.jobs if job.is_group() else [job])):
        return 0
    return max(int(value), 0)


def _says(job: Any) -> bool:
    """Return whether a job's rule, or the user, says how much memory it takes."""
    from snakemake.resources import Resources

    resource = job.rule.resources.get("mem_mb")
    evaluator = getattr(resource, "_evaluator", None)
    if evaluator is None:
        return True
    made_up = Resources.DEFAULTS["full"].get("mem")
    said = inspect.getclosurevars(inspect.unwrap(evaluator)).nonlocals.get("value")
    return said is None or said != made_up


def too_much(asked: int, budget: int) -> str:
    """Return why a job that asks for more memory than there is cannot run."""
    return (
        f"asks for mem_mb={asked}, but its jobs may take {budget} MB here together, which is the "
        "machine's memory unless --gpupool-memory says otherwise. Lower mem_mb (--set-resources "
        f"RULE:mem_mb=...), or give --gpupool-memory SIZE, or --gpupool-memory {OFF} to let jobs "
        "start whatever they ask for"
    )
