"""Dask, as far as a run needs it: a scheduler, a client, new agents, and connections to them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import dask
from distributed import Client, Scheduler, SpecCluster
from distributed.comm import connect
from distributed.security import Security
from distributed.utils import get_ip, get_ip_interface

from snakemake_executor_gpupool.hosts.cluster.agent import AgentPlugin

#: How long one attempt to reach an agent may take.
CONNECT_S = 3.0
#: What is said on a topic to hear whether it is listened to, how often, and with what pause.
OWN_VOICE = {"coordinator": "listens"}
MAX_CALLS, CALL_S = 100, 0.1
#: How long Dask may take to close.
CLOSE_S = 5.0

#: Only the scheduler of the coordinator's Dask listens, and it serves no web pages.
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.worker-ttl": None,
    "distributed.deploy.lost-worker-timeout": "5s",
    "distributed.admin.low-level-log-length": 0,
}


def scheduler_options(interface: str | None, security: Security) -> dict[str, Any]:
    """Return the options of our scheduler: it listens on one address, never on all."""
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
    # A cluster without workers of its own.
    spec = {"cls": Scheduler, "options": options}
    return SpecCluster(scheduler=spec, workers={}, security=security, silence_logs=logging.ERROR)


class Engine:
    """Dask's client and its event loop.

    Parameters
    ----------
    where
        A Dask cluster, or the address of a scheduler.
    security
        Credentials for the scheduler and for every agent.
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
        """Set Dask's configuration; call it before anything of Dask is started."""
        dask.config.set(SETTINGS)
        logging.getLogger("distributed").setLevel(logging.ERROR)

    @property
    def plugin_name(self) -> str:
        """The name of this run's plugin within Dask workers."""
        return self._plugin.name

    def watch(self, on_agent: Callable[[dict[str, str]], None]) -> None:
        """Make every Dask worker an agent, later ones too.

        ``on_agent`` is called with each agent's announcement, on the event loop's thread.
        """
        is_heard = threading.Event()

        def tell(event: tuple[float, dict[str, str]]) -> None:
            if event[1] == OWN_VOICE:
                is_heard.set()
            else:
                on_agent(event[1])

        topic = self._plugin.name
        self.client.subscribe_topic(topic, tell)
        # The subscription and the plugin go to the scheduler over connections of their own, in
        # either order; agents announce themselves once, and nobody hears it too early.
        for _ in range(MAX_CALLS):
            self.client.log_event(topic, OWN_VOICE)
            if is_heard.wait(CALL_S):
                break
        self.client.register_plugin(self._plugin)

    def run(self, work: Coroutine[Any, Any, None]) -> concurrent.futures.Future[None]:
        """Run a coroutine on the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def connect(self, address: str, session: str, received: int) -> tuple[Any, int | None]:
        """Connect to an agent; return the connection and how many messages it has received.

        The number is None if the agent does not know the session.

        Raises
        ------
        ConnectionRefusedError
            No process listens there: the agent has ended.
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
        """Remove the plugin, and close the connection to Dask."""
        if isinstance(self._where, str):  # workers of others stay: take our plugin out
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
