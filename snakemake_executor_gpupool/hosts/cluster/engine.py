"""Dask, as far as a run needs it: a scheduler, a client, word of new agents, links to them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import dask
from distributed import Client, Scheduler, SpecCluster
from distributed.comm import connect
from distributed.security import Security
from distributed.utils import get_ip, get_ip_interface

from snakemake_executor_gpupool.hosts.cluster.agent import AgentPlugin

#: How long one try to reach an agent may take.
CONNECT_S = 3.0
#: How long Dask may take to end.
CLOSE_S = 5.0

#: Nothing of the coordinator's Dask listens but its scheduler, and no web pages are made.
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.worker-ttl": None,
    "distributed.deploy.lost-worker-timeout": "5s",
    "distributed.admin.low-level-log-length": 0,
}


def scheduler_options(interface: str | None, security: Security) -> dict[str, Any]:
    """Return what a scheduler of ours is started with: one address to listen on, never all."""
    host = get_ip_interface(interface) if interface else get_ip()
    return {
        "host": host,
        "port": 0,
        "protocol": "tls",
        "security": security,
        "dashboard": False,
        "dashboard_address": f"{host}:0",
    }


def own_scheduler(interface: str | None, security: Security) -> SpecCluster:
    """Start a scheduler in this process, for workers that are started by others."""
    options = scheduler_options(interface, security)
    # Dask's cluster of no workers of its own.
    spec = {"cls": Scheduler, "options": options}
    return SpecCluster(scheduler=spec, workers={}, security=security, silence_logs=logging.ERROR)


class Engine:
    """Dask's client, and what runs on its event loop.

    Parameters
    ----------
    where
        A Dask cluster, or the address of a scheduler.
    security
        Shown to the scheduler and to every agent.
    run_id
        The run.
    """

    def __init__(self, where: Any, security: Security, run_id: str) -> None:
        self._where = where
        self._security = security
        self._plugin = AgentPlugin(run_id)
        self.client = Client(where, security=security, timeout=30, set_as_default=False)
        self.loop: asyncio.AbstractEventLoop = self.client.loop.asyncio_loop

    @classmethod
    def configure(cls) -> None:
        """Settle Dask's settings; before anything of it is started."""
        dask.config.set(SETTINGS)
        logging.getLogger("distributed").setLevel(logging.ERROR)

    @property
    def plugin_name(self) -> str:
        """What agents of this run are called within their Dask workers."""
        return self._plugin.name

    def watch(self, on_agent: Callable[[dict[str, str]], None]) -> None:
        """Make every Dask worker an agent, those yet to come too; be told of each.

        ``on_agent`` is called on the event loop's thread.
        """

        def tell(event: tuple[float, dict[str, str]]) -> None:
            on_agent(event[1])

        self.client.subscribe_topic(self._plugin.name, tell)
        self.client.register_plugin(self._plugin)

    def run(self, work: Coroutine[Any, Any, None]) -> concurrent.futures.Future[None]:
        """Run a coroutine on the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def connect(self, address: str, session: str, received: int) -> tuple[Any, int | None]:
        """Connect to an agent; return the connection and how many messages it has got.

        None instead of a number: it knows nothing of that session.

        Raises
        ------
        ConnectionRefusedError
            No process listens there: the agent is dead.
        OSError
            It cannot be reached.
        """
        arguments = self._security.get_connection_args("client")
        try:
            comm = await connect(address, timeout=CONNECT_S, **arguments)
        except OSError as error:
            if "ConnectionRefused" in _causes(error):
                raise ConnectionRefusedError(address) from error
            raise
        hello = {"session": session, "received": received}
        await comm.write({"op": self._plugin.name, "reply": False, **hello})
        answer = await asyncio.wait_for(comm.read(), CONNECT_S)
        return comm, answer["received"]

    def count_workers(self) -> int:
        """Return how many Dask workers there are."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    async def _leave(self) -> None:
        await self.client.scheduler.unregister_worker_plugin(name=self._plugin.name)

    def close(self) -> None:
        """Let go of the agents, and of Dask."""
        if isinstance(self._where, str):  # others' workers stay, and need not know of us
            with contextlib.suppress(Exception):
                self.run(self._leave()).result(CLOSE_S)
        with contextlib.suppress(Exception):
            self.client.close(timeout=CLOSE_S)


def _causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(repr(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)
