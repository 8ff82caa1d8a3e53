"""Messages on the server's side, where an event loop waits for them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from snakemake_executor_gpupool.frontends.server.talk import LENGTH, decode, length_of


async def receive_from(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Wait for a message; None: the client has ended.

    Raises
    ------
    FrameError
        What came is none.
    """
    try:
        head = await reader.readexactly(LENGTH.size)
    except asyncio.IncompleteReadError:
        return None
    return decode(await reader.readexactly(length_of(head)))


def uid_of_peer(writer: asyncio.StreamWriter) -> int:
    """Return whose process is at the other end."""
    return _credentials_of_peer(writer)[1]


def pid_of_peer(writer: asyncio.StreamWriter) -> int:
    """Return the number of the process at the other end, as it is seen here."""
    return _credentials_of_peer(writer)[0]


def _credentials_of_peer(writer: asyncio.StreamWriter) -> tuple[int, int, int]:
    connection = writer.get_extra_info("socket")
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("3i", credentials)
    return pid, uid, gid
