"""One agent as the coordinator sees it, and how it stays connected."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.cluster.endpoint import Endpoint
from snakemake_executor_gpupool.hosts.cluster.link import LinkBroken
from snakemake_executor_gpupool.hosts.cluster.messages import Command, pack

#: Pause before the next attempt to reach an agent.
RETRY_S = 0.2
#: After so many refused connections in a row an agent counts as dead.
MAX_REFUSALS = 2

Connect = Callable[[str, str, int], Awaitable[tuple[Any, int | None]]]


@dataclass(eq=False)
class Node:
    """One agent as the coordinator sees it.

    Attributes
    ----------
    address
        Of its Dask worker.
    place
        Stays the same when its Dask worker is restarted.
    dask_name
        Dask's name of its worker.
    workers
        The processes on it, with the devices of each.
    """

    name: str
    address: str
    place: str
    dask_name: str
    session: str
    endpoint: Endpoint
    token: str
    devices: dict[str, Device] = field(default_factory=dict)
    workers: dict[str, tuple[Device, ...]] = field(default_factory=dict)
    ends_s: float = math.inf
    has_joined: bool = False
    is_leaving: bool = False
    #: The batch system wants it back: it ends once nothing computes on it.
    is_told_to_end: bool = False
    #: No more attempts to connect are made.
    is_given_up: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether new processes may be started on it."""
        return self.has_joined and not self.is_leaving

    @property
    def deviceless(self) -> int:
        """How many of its processes have no device."""
        return sum(not devices for devices in self.workers.values())

    def tell(self, command: Command) -> None:
        """Send the agent a message."""
        self.endpoint.post(pack(command))

    async def until_lost(self, connect: Connect, limit_s: float) -> str:
        """Stay connected to the agent as long as possible; return why it was lost.

        Parameters
        ----------
        connect
            Connects to an address, given the session and how many messages have arrived.
        limit_s
            The node is lost when nothing was heard from it for so long.
        """
        refusals = 0
        while not self.is_given_up:
            try:
                received = self.endpoint.link.received
                comm, theirs = await connect(self.address, self.session, received)
                refusals = 0
                if theirs is None:
                    return "its agent was restarted and has ended this run's processes"
                await self.endpoint.attend(comm, theirs)
            except ConnectionRefusedError:
                refusals += 1
            except LinkBroken as error:
                return str(error)
            except OSError:
                pass  # it may be reachable again in a moment
            if refusals >= MAX_REFUSALS:
                return "its agent has ended"
            if time.monotonic() - self.endpoint.heard_s > limit_s:
                return f"nothing was heard from it for {limit_s:.0f} s"
            await asyncio.sleep(RETRY_S)
        return "the run is over"
