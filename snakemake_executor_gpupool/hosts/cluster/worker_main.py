"""Starts a Dask worker on a node: ``python -m ...hosts.cluster.worker_main``.

Dask's own command line with what has to be decided on the node: it listens on the address
that leads to the scheduler, never on all; it has no web pages; and it leaves the variables
for numeric libraries' threads alone, which are for the model's workers to have.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed.cli.dask_worker import main as dask_worker
from distributed.utils import get_ip

from snakemake_executor_gpupool.hosts.cluster.node import CORES, node_cores, node_name

#: Loaded into both processes, to take over the signals by which a batch system ends them.
END_SIGNALS = "snakemake_executor_gpupool.hosts.cluster.end_signals"

SETTINGS: dict[str, Any] = {
    "distributed.nanny.environ": {},
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


def main() -> None:
    """Run the worker until the scheduler is gone."""
    arguments = sys.argv[1:]
    if not {"--host", "--interface"} & set(arguments):
        scheduler = urlsplit(arguments[0]).hostname or ""
        arguments += ["--host", get_ip(scheduler)]
    if "--host" in arguments:
        host = arguments[arguments.index("--host") + 1]
        arguments += ["--dashboard-address", f"{host}:0"]
    # Of the batch system's own limits this process needs little: it only starts others.
    arguments += ["--memory-limit", "0", "--nthreads", "1"]
    arguments += ["--preload", END_SIGNALS, "--preload-nanny", END_SIGNALS]
    arguments += ["--resources", f"{CORES}={node_cores(os.environ)}"]
    _check_files(arguments)
    dask.config.set(SETTINGS)
    dask_worker(args=[*arguments, "--no-dashboard"], standalone_mode=True)


def _check_files(arguments: list[str]) -> None:
    """Say the likeliest mistake in plain words: Dask's own would not tell it."""
    for option, value in pairwise(arguments):
        if option.startswith("--tls-") and not os.access(value, os.R_OK):
            sys.exit(
                f"gpupool: node {node_name(os.environ)} does not see {value}: the workflow's "
                "directory must be on a file system that all nodes share"
            )


if __name__ == "__main__":
    main()
