"""How many threads all jobs may use, and how many a rule gets of those that it asks for."""

from __future__ import annotations

import os
from typing import Any

from snakemake_executor_gpupool.devices.cores import available_cores

#: Snakemake's own resource that holds a job's threads.
THREADS = "_cores"


def cpu_budget(workflow: Any) -> int:
    """Return how many threads jobs may use: ``--cores``, else ``--local-cores``, else all."""
    settings = workflow.resource_settings
    for given in (settings.cores, getattr(settings, "local_cores", None)):
        if given and given < os.sysconf("SC_NPROCESSORS_ONLN") * 64:
            return int(given)
    return available_cores()


def bound_threads(workflow: Any, cores: int, logger: Any, *, elsewhere: bool) -> None:
    """Limit the threads that rules claim to those that exist, where ``--cores`` was not given.

    With ``--cores``, Snakemake does so itself. Without it, Snakemake assumes that jobs run on
    another machine of unknown size.

    Parameters
    ----------
    cores
        How many cores there are.
    elsewhere
        Whether rules run on nodes of a cluster, which may have more.
    """
    if workflow.resource_settings.cores is not None:
        return
    for rule in workflow.rules:
        # It claims all cores, and their number was not given.
        if rule.is_handover and rule.resources[THREADS].raw is None:
            rule.resources[THREADS] = cores
    if elsewhere:
        return
    workflow.global_resources[THREADS] = cores
    logger.info(
        f"gpupool: jobs use up to {cores} cores (set it with --cores); rules that claim more "
        "threads are scaled down"
    )
