"""What a batch system's signals do to an agent; Dask loads this module into both its processes.

::

    Slurm ── SIGTERM, SIGUSR1 ──► nanny ── SIGUSR1 ──► Dask worker: the agent leaves the run
                    └── to all processes of the job, or to its first one alone ──┘

Batch systems announce the end of a job by a signal (Slurm's ``--signal``, preemption, requeue,
``qdel``): to the job's first process, to all of them, or to the steps. The first process of a
pilot is Dask's nanny, which passes it on. Until the plugin is there nothing is lost by ending.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from distributed import Nanny

from snakemake_executor_gpupool.hosts.cluster.agent import AgentPlugin

#: Every one of them means the same: the machine is about to be taken back.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def dask_setup(service: Any) -> None:
    """Take over the signals of one of Dask's processes, which must not end by them."""
    react = _pass_on if isinstance(service, Nanny) else _leave
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, react, service, number)


def _pass_on(nanny: Any, number: signal.Signals) -> None:
    nanny.close_gracefully(reason=f"told to end by {number.name}")  # and not started again
    pid = nanny.pid
    if pid is None:
        asyncio.ensure_future(nanny.close())  # noqa: RUF006 - it is the last that happens here
    else:
        os.kill(pid, signal.SIGUSR1)


def _leave(worker: Any, number: signal.Signals) -> None:
    for plugin in worker.plugins.values():
        if isinstance(plugin, AgentPlugin):
            plugin.told_to_end(number.name)
            return
    asyncio.ensure_future(worker.close())  # noqa: RUF006
