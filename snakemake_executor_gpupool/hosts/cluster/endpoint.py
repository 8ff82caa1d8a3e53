"""One end of a link on an event loop, over Dask's own encrypted connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from snakemake_executor_gpupool.hosts.cluster.link import Link

#: How long a connection may be idle before it sends a keep-alive.
KEEPALIVE_S = 1.0
#: A connection that received nothing for so long is dropped, and another one opened.
SILENT_S = 10.0

Deliver = Callable[[bytes], None]


class Endpoint:
    """Sends and receives for one link.

    Any thread may call :meth:`post`; everything else runs on the event loop's thread.

    Parameters
    ----------
    loop
        The event loop.
    deliver
        Called with every message, once and in order.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Deliver) -> None:
        self.link = Link()
        #: When anything last arrived from the other end (monotonic seconds).
        self.heard_s = time.monotonic()
        self._loop = loop
        self._deliver = deliver
        self._wake = asyncio.Event()
        self._comm: Any = None

    def post(self, message: bytes) -> None:
        """Send a message; callable from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the run
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: bytes) -> None:
        self.link.put(message)
        self._wake.set()

    async def attend(self, comm: Any, received: int) -> None:
        """Run the link over a connection until the connection breaks.

        Parameters
        ----------
        comm
            A connection of Dask's.
        received
            How many messages the other end has received.

        Raises
        ------
        LinkBroken
            The two ends disagree about what was received.
        """
        self.drop()
        self._comm = comm
        self.link.resume(received)
        self.heard_s = time.monotonic()
        work = (self._read(comm), self._write(comm), self._listen_for_silence())
        tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            comm.abort()
        for result in ended:
            if isinstance(result, Exception) and not isinstance(result, OSError):
                raise result

    def drop(self) -> None:
        """Drop the current connection, if there is one."""
        if self._comm is not None:
            self._comm.abort()
            self._comm = None

    async def _read(self, comm: Any) -> None:
        while True:
            message = await comm.read()
            if comm is not self._comm:  # another connection has taken over meanwhile
                return
            self.heard_s = time.monotonic()
            self.link.acknowledged(message["received"])
            for number, data in message["messages"]:
                if self.link.accept(number):
                    self._deliver(bytes(data))

    async def _write(self, comm: Any) -> None:
        while comm is self._comm:
            self._wake.clear()
            messages = self.link.take_unsent()
            await comm.write({"received": self.link.received, "messages": messages})
            if not self.link.has_unsent:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), KEEPALIVE_S)

    async def _listen_for_silence(self) -> None:
        while time.monotonic() - self.heard_s < SILENT_S:
            await asyncio.sleep(KEEPALIVE_S)
