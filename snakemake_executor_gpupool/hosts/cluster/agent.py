"""A node's part of a run: a thin agent in a Dask worker, which starts the model's workers.

::

    coordinator ◄── link ──► Agent (event loop) ◄── queue, wake ──► Session (thread): LocalHost

The agent is a plugin of the Dask worker; the processes that hold models are started by
:class:`~snakemake_executor_gpupool.hosts.local.LocalHost`, just as on a single machine, and end
when the agent does, however that happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

from snakemake_executor_gpupool.hosts.cluster.link import LinkBroken
from snakemake_executor_gpupool.hosts.cluster.node import CORES, node_name
from snakemake_executor_gpupool.hosts.cluster.session import Session

log = logging.getLogger("gpupool.agent")


class AgentPlugin(WorkerPlugin):
    """Makes a Dask worker an agent for one run.

    Parameters
    ----------
    run_id
        The run; also the name of the topic under which agents announce themselves.
    """

    def __init__(self, run_id: str) -> None:
        self.name = f"gpupool-{run_id}"
        self._agent: Agent | None = None
        self._worker: Any = None

    def setup(self, worker: Any) -> None:
        """Offer the link, and announce this agent to the coordinator."""
        self._agent, self._worker = Agent(cores_of(worker)), worker
        worker.handlers[self.name] = self._agent.attend
        node = node_name(os.environ)
        place = worker.nanny or worker.address
        announcement = {
            "address": worker.address,
            "node": node,
            "place": place,
            "name": str(worker.name),
        }
        worker.log_event(self.name, announcement)

    def told_to_end(self, why: str) -> None:
        """Leave the run, as the batch system wants the node back; called on the event loop."""
        if self._agent is not None and self._agent.told_to_end(why):
            self._worker.status = Status.paused  # it gets no more tasks
            self._leaving = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        assert self._agent is not None
        await self._agent.has_left()
        await self._worker.close(reason="told to end")

    async def teardown(self, worker: Any) -> None:
        """End everything."""
        worker.handlers.pop(self.name, None)
        if self._agent is not None:
            await self._agent.close()


class Agent:
    """One end of the link, and the session that it serves.

    Used on the event loop's thread alone.

    Parameters
    ----------
    cores
        How many cores commands may use.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._session: Session | None = None
        self._is_told_to_end = False

    def told_to_end(self, why: str) -> bool:
        """Have the session end once it may; return whether this is the first time."""
        is_first, self._is_told_to_end = not self._is_told_to_end, True
        if is_first and self._session is not None:
            self._session.told_to_end(why)
        return is_first

    async def has_left(self) -> None:
        """Wait until the coordinator has ended the session."""
        if self._session is not None:
            await asyncio.to_thread(self._session.wait)

    async def attend(self, comm: Any, session: str, received: int) -> Any:
        """Serve one connection of a session until it breaks; a handler of the Dask worker."""
        if self._session is None or self._session.ident != session or self._session.is_over:
            # A session that this agent has ended, or never knew; or it begins none any more.
            if received or self._is_told_to_end:
                await comm.write({"received": None})
                return Status.dont_reply
            await self.close()
            self._session = Session(session, asyncio.get_running_loop(), self._cores)
        endpoint = self._session.endpoint
        await comm.write({"received": endpoint.link.received})
        try:
            await endpoint.attend(comm, received)
        except LinkBroken as error:
            log.error("the link to the coordinator cannot be resumed: %s", error)
            await self.close()
        return Status.dont_reply

    async def close(self) -> None:
        """End the session and all its processes."""
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)


def cores_of(worker: Any) -> int:
    """Return how many cores of its node a Dask worker has for commands."""
    state = worker.state
    return int(state.total_resources.get(CORES, state.nthreads))
