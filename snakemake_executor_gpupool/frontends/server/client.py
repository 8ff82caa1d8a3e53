"""The client's side: hands one job over to a server, starts one if need be, waits.

What it imports is the standard library's, and little of that: a client is to be there in less
than a tenth of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from snakemake_executor_gpupool.errors import ConfigError, FrameError
from snakemake_executor_gpupool.frontends.commandline.output import complain
from snakemake_executor_gpupool.frontends.server.address import (
    AUTO,
    LOG,
    START_LOCK,
    Wish,
    directory_of,
    key_of,
    make_directory,
    socket_of,
    why_unsafe,
)
from snakemake_executor_gpupool.frontends.server.local_files import is_locked, is_special
from snakemake_executor_gpupool.frontends.server.own import (
    environment_of_server,
    inside_of,
    surroundings,
)
from snakemake_executor_gpupool.frontends.server.showing import Shown
from snakemake_executor_gpupool.frontends.server.talk import encode, receive

#: How long a server may take to greet a client, and to start.
GREETING_S = 30.0
START_S = 120.0
#: How long an interrupted client waits for its job's end, so that nothing appears after its own.
FAREWELL_S = 5.0
LOOK_S = 0.02
#: Set in a client that has begun anew: once is enough.
RENEWED = "GPUPOOL_SERVER_RENEWED"
#: How often a job is handed over before it is computed here.
TRIES = 2


class NoServer(Exception):
    """No server can take a job; the message says why."""


class Upgraded(NoServer):
    """This process is of a gpupool that is not there any longer."""


class ComputeHere(Exception):
    """A job is not one for a server; the message says why."""


class NotShared(ComputeHere):
    """A job has pipes or devices: what is at their other end may wait for it."""


class InsideOfAnother(NoServer):
    """This process is part of a run that has its own workers."""


class ServerLost(Exception):
    """The server has ended while it had a job."""


class _Terminated(BaseException):
    """SIGTERM has come."""


class Client:
    """Hands jobs over to the server that a user wishes for.

    Parameters
    ----------
    wish
        Which server, and whether to start it.
    env
        The environment that says which one, and that it is started in; None: this process's.
    """

    def __init__(self, wish: Wish, env: Mapping[str, str] | None = None) -> None:
        self._wish = wish
        self._env = os.environ if env is None else env
        self.key = key_of(self._env)
        self.directory = wish.directory or directory_of(self.key)

    # -- a job -------------------------------------------------------------------------
    def run(self, job: dict[str, Any], files: Sequence[str]) -> dict[str, Any] | None:
        """Have a job done; None: it is to be computed here, which a line has said.

        Parameters
        ----------
        job
            What the server must know of it.
        files
            The paths of its inputs, outputs and log.

        Raises
        ------
        ConfigError
            A server was to be there, and is not, or takes no such job.
        """
        try:
            return self._handed_over(job, files)
        except NoServer as error:
            if self._wish.word != AUTO:
                raise ConfigError(f"no server takes this job: {error}") from error
            if not isinstance(error, InsideOfAnother):
                self._go_cold(f"no server takes this job: {error}; it is computed here, cold", job)
        except NotShared as error:
            say(f"{error}; the job is computed here, cold")
        except ComputeHere as error:
            self._go_cold(f"{error}; the job is computed here, cold", job)
        return None

    @staticmethod
    def _go_cold(line: str, job: dict[str, Any]) -> None:
        """Say why a job is computed here, and wait until it may be: others do the same."""
        from snakemake_executor_gpupool.frontends.server.turns import take_turn

        say(line)
        take_turn(job.get("device"), directory_of("cold"), say, os.environ)

    def _handed_over(self, job: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
        _refuse_what_stays_here(files)
        try:
            message = {**job, **surroundings(self._env), "type": "run", "key": self.key}
        except FileNotFoundError as error:
            raise ComputeHere("the working directory was removed") from error
        for attempt in range(TRIES):
            try:
                with self._connected() as connection:
                    answer = _asked(connection, message)
            except NoServer as error:
                if isinstance(error, Upgraded):
                    _begin_anew()
                if not attempt:
                    raise
                raise ComputeHere(f"the server has ended, and {error}") from error
            except ServerLost:
                if attempt + 1 < TRIES:
                    say("the server has ended while it had the job, which is handed over again")
                continue
            if answer["type"] in ("done", "failed"):
                return answer
            _act_on(answer)
        raise ComputeHere("the server has ended a second time")

    # -- the server ----------------------------------------------------------------------
    def ask(self, message: dict[str, Any], patience_s: float | None = GREETING_S) -> dict[str, Any]:
        """Ask a server that is there; the answer's type is ``none`` if there is none."""
        try:
            with self._attached() as connection:
                connection.settimeout(patience_s)
                connection.sendall(encode({**message, "key": self.key}))
                answer = receive(connection)
        except (NoServer, OSError, FrameError) as error:
            return {"type": "none", "why": str(error)}
        return answer or {"type": "none", "why": "it has just ended"}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with self.connect() as connection:
            yield connection

    def connect(self) -> socket.socket:
        """Return a connection to the server, which is started if that is wished for.

        Raises
        ------
        NoServer
            There is none for this process.
        """
        try:
            return self._attached()
        except NoServer:
            if self._wish.word != AUTO:
                raise
            return self._started()

    def _attached(self) -> socket.socket:
        """Return a connection to the server that is there.

        Raises
        ------
        NoServer
            There is none, or one that is not meant for this process.
        """
        unsafe = why_unsafe(self.directory)
        if unsafe:
            raise NoServer(f"its directory is not safe: {unsafe}")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(GREETING_S)
            connection.connect(socket_of(self.directory))
            if _uid_of_peer(connection) != os.getuid():
                raise NoServer(f"that in {self.directory} is another user's")
            greeting = receive(connection)
        except (OSError, FrameError) as error:
            connection.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoServer(
                f"there is none in {self.directory} ({why}); gpupool serve starts one, and so "
                "does --server auto (of Snakemake: --gpupool-server auto)"
            ) from error
        except BaseException:
            connection.close()
            raise
        if greeting is None or greeting.get("key") != self.key:
            connection.close()
            raise NoServer(
                f"that in {self.directory} is for another version of gpupool, Python, directory of "
                "locks or set of devices"
                if greeting is not None
                else f"that in {self.directory} is ending"
            )
        return connection

    def _started(self) -> socket.socket:
        """Start a server, unless another client does so just now; return a connection to it.

        Raises
        ------
        NoServer
            It cannot be started.
        """
        deadline_s = time.monotonic() + START_S
        try:
            make_directory(self.directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            lock = os.open(os.path.join(self.directory, START_LOCK), flags, 0o600)
        except (OSError, ConfigError) as error:
            raise NoServer(f"none can be started: {error}") from error
        try:
            self._wait_for(lock, deadline_s)
            with contextlib.suppress(NoServer):
                return self._attached()
            return self._awaited(deadline_s)
        finally:
            os.close(lock)

    @staticmethod
    def _wait_for(lock: int, deadline_s: float) -> None:
        try:
            while not is_locked(lock):
                if time.monotonic() > deadline_s:
                    raise NoServer("another client has been starting one for too long")
                time.sleep(LOOK_S)
        except OSError as error:
            why = f"its directory's file system has no locks: {error.strerror}"
            raise NoServer(why) from error

    def _awaited(self, deadline_s: float) -> socket.socket:
        import subprocess

        module = "snakemake_executor_gpupool.frontends.server.main"
        command = [sys.executable, "-m", module, "--directory", self.directory, "--key", self.key]
        # Nothing of this process is kept open by it: an engine waits for the end of its pipes.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment_of_server(self._env),
            start_new_session=True,
        )
        try:
            while time.monotonic() < deadline_s:
                with contextlib.suppress(NoServer):
                    return self._attached()
                if process.poll() is not None:
                    break
                time.sleep(LOOK_S)
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del process  # it outlives this one; should it not, any later Popen buries it
        if key_of(self._env) != self.key:
            raise Upgraded("gpupool was installed anew since this process was started")
        raise NoServer(
            f"one was started and did not come up: {last_line(self.directory) or 'it says nothing'}"
        )


def _refuse_what_stays_here(files: Sequence[str]) -> None:
    inside = inside_of(os.environ)
    if inside:
        raise InsideOfAnother(f"{inside} is set, which means that this is part of another run")
    special = next(filter(is_special, files), None)
    if special is not None:
        raise NotShared(f"{special} is no file or directory that a server can open")


def _act_on(answer: dict[str, Any]) -> None:
    """Do what a server says that has not done the job; return if it is to be asked again."""
    match answer["type"]:
        case "ending":
            time.sleep(LOOK_S)
        case "renewed":
            _begin_anew()
        case "here":
            raise ComputeHere(str(answer.get("why")))
        case _:
            raise NoServer(str(answer.get("why")))


def _begin_anew() -> NoReturn:
    """Start this process again: gpupool was installed anew since it did.

    Raises
    ------
    ComputeHere
        It has begun anew already, or was not started as a command.
    """
    if os.environ.get(RENEWED) or not sys.orig_argv:
        raise ComputeHere("gpupool was installed anew while the server had the job")
    os.environ[RENEWED] = "1"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def last_line(directory: str) -> str:
    """Return the last line of a server's log; empty: there is none."""
    try:
        with open(os.path.join(directory, LOG), "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - 2000, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


def say(line: str) -> None:
    """Print a line on standard error; where nobody reads that, the job goes on."""
    complain(line)


def _asked(connection: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    """Hand a job over, and wait for its end. A signal that ends this process ends it first."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        connection.settimeout(None)
        connection.sendall(encode(message))
        answer = receive(connection)
    except (KeyboardInterrupt, _Terminated) as error:
        _cancel(connection)
        if isinstance(error, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    except (OSError, FrameError) as error:
        raise ServerLost from error
    finally:
        signal.signal(signal.SIGTERM, previous)
    if answer is None:
        raise ServerLost
    # Opened before the server is left: the logs are its own, and end with it.
    answer["shown"] = Shown(answer)
    return answer


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _cancel(connection: socket.socket) -> None:
    """Say that the job is not wanted any longer, and wait a moment for its end."""
    with contextlib.suppress(OSError, FrameError):
        connection.settimeout(FAREWELL_S)
        connection.sendall(encode({"type": "cancel"}))
        receive(connection)


def _uid_of_peer(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[1])
