"""Messages between a server and its clients: JSON objects, each after its length.

Nothing is ever unpickled. Standard library only, and light.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from snakemake_executor_gpupool.errors import FrameError

#: Bytes of one message. What is longest in one are environments, and lists of files.
MAX_BYTES = 64 * 1024**2
LENGTH = struct.Struct("!I")


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as bytes.

    Raises
    ------
    FrameError
        It is too long.
    """
    data = json.dumps(message).encode()
    if len(data) > MAX_BYTES:
        raise FrameError(f"a message of {len(data)} bytes; {MAX_BYTES} at most")
    return LENGTH.pack(len(data)) + data


def decode(data: bytes) -> dict[str, Any]:
    """Return the message that bytes after a length are.

    Raises
    ------
    FrameError
        They are none.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise FrameError("a message is no JSON object with a type")
    return message


def length_of(head: bytes) -> int:
    """Return how many bytes follow.

    Raises
    ------
    FrameError
        They are too many.
    """
    (length,) = LENGTH.unpack(head)
    if length > MAX_BYTES:
        raise FrameError(f"a message of {length} bytes; {MAX_BYTES} at most")
    return int(length)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Wait for a message; None: the other side has ended.

    Raises
    ------
    FrameError
        What came is none.
    OSError
        The connection failed.
    """
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    data = _exactly(connection, length_of(head))
    return None if data is None else decode(data)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
