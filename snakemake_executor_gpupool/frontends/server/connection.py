"""A run's side of its connection to a server: neither sending nor hearing holds the run up."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, FrameError
from snakemake_executor_gpupool.frontends.server.address import AUTO, OFF, Wish
from snakemake_executor_gpupool.frontends.server.client import (
    GREETING_S,
    Client,
    InsideOfAnother,
    NoServer,
)
from snakemake_executor_gpupool.frontends.server.own import inside_of, surroundings
from snakemake_executor_gpupool.frontends.server.talk import encode, receive
from snakemake_executor_gpupool.runtime.config import PoolConfig

LOG = logging.getLogger("snakemake_executor_gpupool.serve")
#: How long what is still to be sent may take at the end.
LAST_S = 2.0


@dataclass(frozen=True)
class Server:
    """A server that a run is attached to.

    Attributes
    ----------
    files
        The directory of its pool's files, which is removed when all its processes have ended.
    spools
        Where items of calls are to be put.
    """

    socket: socket.socket
    directory: str
    pid: int
    devices: list[str]
    files: str
    spools: list[str]


class Connection:
    """Sends and hears on threads of its own.

    Parameters
    ----------
    connection
        As :func:`attach` has it.
    hear
        Called with each message, in order, and with None once the server has ended.
    """

    def __init__(
        self, connection: socket.socket, hear: Callable[[dict[str, Any] | None], None]
    ) -> None:
        self._socket = connection
        self._hear = hear
        self._unsent: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="gpupool-to-server", daemon=True)
        self._hearer = threading.Thread(target=self._listen, name="gpupool-server", daemon=True)
        self._sender.start()
        self._hearer.start()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message. Returns at once; it is lost if the server is."""
        self._unsent.put(message)

    def close(self) -> None:
        """Send what is left, and end the connection; any thread but the two."""
        self._unsent.put(None)
        self._sender.join(LAST_S)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._hearer.join(LAST_S)
        self._socket.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._unsent.get()) is not None:
                self._socket.sendall(encode(message))

    def _listen(self) -> None:
        try:
            while (message := receive(self._socket)) is not None:
                self._hear(message)
        except Exception:
            # What makes no sense counts as the end of a server that can be believed.
            LOG.debug("the connection to the server fails", exc_info=True)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._hear(None)


def attach(
    wish: Wish, config: PoolConfig, env: Mapping[str, str], options: Mapping[str, str]
) -> Server:
    """Attach to the server that a run wishes for; start it if need be.

    Parameters
    ----------
    env
        The run's own environment.
    options
        What the run's options say, as the variables that say the same.

    Raises
    ------
    NoServer
        There is none for this run; the message says why.
    """
    inside = inside_of(env)
    if inside:
        raise InsideOfAnother(f"{inside} is set, which means that this is part of another run")
    why: list[str] = []
    for each in _clients(wish, env, options):
        try:
            server = _attached(each, env)
        except NoServer as error:
            why.append(str(error))
            continue
        if not options or sorted(server.devices) == sorted(d.name for d in config.devices):
            return server
        server.socket.close()
        why.append(f"that in {server.directory} manages {', '.join(server.devices)}")
    raise NoServer("; ".join(dict.fromkeys(why)))


def _clients(wish: Wish, env: Mapping[str, str], options: Mapping[str, str]) -> Iterator[Client]:
    """Yield the ways to the servers that may be meant, the last of which may start one."""
    if options:
        there = Wish("on", wish.directory)
        yield Client(there, {**env, **options})
        yield Client(there, env)
    if wish.word == AUTO or not options:
        yield Client(wish, {**env, **options})


def _attached(client: Client, env: Mapping[str, str]) -> Server:
    connection = client.connect()
    try:
        connection.settimeout(GREETING_S)
        hello = {"type": "attach", "key": client.key, **surroundings(env)}
        connection.sendall(encode(hello))
        answer = receive(connection)
        if answer is None or answer["type"] != "attached":
            why = "it has just ended" if answer is None else answer.get("why", answer["type"])
            raise NoServer(f"that in {client.directory} does not take this run: {why}")
        connection.settimeout(None)
        devices = [str(name) for name in answer["devices"]]
        files, spools = str(answer["files"]), [str(path) for path in answer["spools"]]
        return Server(connection, client.directory, int(answer["pid"]), devices, files, spools)
    except (OSError, FrameError, KeyError, ValueError, TypeError) as error:
        connection.close()
        raise NoServer(f"that in {client.directory} does not answer: {error}") from error
    except BaseException:
        connection.close()
        raise


def wish_of_run(text: str | None, option: str) -> Wish:
    """Return what a run's option asks for: off, on, auto, or the path of a socket.

    Raises
    ------
    ConfigError
        It is none of them.
    """
    text = (text or OFF).strip()
    if text in (OFF, "on", AUTO):
        return Wish(text)
    if "/" not in text:
        raise ConfigError(
            f"{option} is {text!r}: it takes {AUTO} (start a server if there is none), on (use the "
            f"one that there is, or fail), {OFF}, or the path of a server's socket"
        )
    path = os.path.abspath(os.path.expanduser(text))
    return Wish("on", path if os.path.isdir(path) else os.path.dirname(path))
