"""The life of a server: its directory, its lock, its socket, its pool, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.server.address import (
    LOCK,
    LOG,
    directory_of,
    key_of,
    make_directory,
    socket_of,
)
from snakemake_executor_gpupool.frontends.server.day_log import DayLog
from snakemake_executor_gpupool.frontends.server.local_files import is_locked
from snakemake_executor_gpupool.frontends.server.printouts import Hearers
from snakemake_executor_gpupool.frontends.server.service import Service
from snakemake_executor_gpupool.frontends.server.workplaces import Workplaces
from snakemake_executor_gpupool.records.paths import SPOOL_PREFIX
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import Origin, build_config
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime

LOGGER = logging.getLogger("snakemake_executor_gpupool")
#: Without a job: after how long a model's processes end. What took long to load is kept longer.
IDLE = IdleTime(least_s=300.0, loads=30.0, most_s=3600.0)
#: And the server, once no model is kept either.
SERVER_IDLE_S = 1800.0
LOG_BYTES, LOG_FILES = 1024**2, 3
#: How often the server looks after its socket, its code and what is out of use.
LOOK_S = 1.0
#: How many clients may wait to be greeted.
BACKLOG = 1024
#: After so long the directory of a server that has ended is removed.
OLD_S = 7 * 86400.0
#: For items that are asked for again, of all runs and clients: each takes a kilobyte or more.
RESULTS_KEPT = 100_000
#: Of the files of the server's run, which goes on for long.
MAX_EVENTS_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    Attributes
    ----------
    directory
        Empty: that of the key.
    idle
        After how long without a job a model's processes end.
    server_idle_s
        After how long the server ends; None: after ``SERVER_IDLE_S``, once no model is kept.
    pool
        Arguments of :func:`~snakemake_executor_gpupool.runtime.config.build_config`.
    preload
        What a client would send to have a model loaded; empty: none is at the start.
    is_quiet
        Whether it says nothing on standard error.
    key
        What it is to have in common with the client that starts it; empty: it is the first.
    patience_s
        How long to wait for the end of another server of the directory.
    """

    directory: str = ""
    idle: IdleTime = IDLE
    server_idle_s: float | None = None
    pool: dict[str, Any] = field(default_factory=dict)
    preload: dict[str, Any] = field(default_factory=dict)
    is_quiet: bool = False
    patience_s: float = 0.0
    key: str = ""


def serve(options: ServerOptions) -> None:
    """Serve until asked to end, or out of use for long.

    Raises
    ------
    ConfigError
        There is a server already, an option is malformed, or the directory cannot be used.
    """
    key = key_of(os.environ)
    if options.key not in ("", key):
        raise ConfigError("gpupool was installed anew since this server was asked for")
    directory = options.directory or directory_of(key)
    path = socket_of(directory)
    make_directory(directory)
    with _locked(directory, options.patience_s), _logging(directory, options.is_quiet):
        _sweep(directory)
        try:
            asyncio.run(_serve(key, Path(directory), path, options))
        except Exception as error:
            LOGGER.error("the server has failed: %s", error)
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


@contextlib.contextmanager
def _locked(directory: str, patience_s: float) -> Iterator[None]:
    """Be the only server of a directory."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        lock = os.open(os.path.join(directory, LOCK), flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{directory}/{LOCK} cannot be made: {error.strerror}") from error
    deadline_s = time.monotonic() + patience_s
    try:
        while not is_locked(lock):
            if time.monotonic() >= deadline_s:
                raise BlockingIOError
            time.sleep(0.05)
    except BlockingIOError as error:
        pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise ConfigError(f"a server is there already, process {pid}, in {directory}") from error
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            f"{directory} is on a file system without locks ({error.strerror}): choose another "
            "one with --directory"
        ) from error
    try:
        with contextlib.suppress(OSError):  # the disk is full: only messages lack the number
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _logging(directory: str, is_quiet: bool) -> Iterator[None]:
    logging.raiseExceptions = False  # a full disk costs lines of the log, and nothing else
    path = os.path.join(directory, LOG)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    ]
    if not is_quiet:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


def _sweep(directory: str) -> None:
    """Remove the directories of servers that ended long ago, beside this one."""
    root = os.path.dirname(directory)
    if os.path.dirname(directory_of("x")) != root:
        return
    for name in os.listdir(root):
        place = os.path.join(root, name)
        with contextlib.suppress(OSError):
            lock = os.open(os.path.join(place, LOCK), os.O_RDWR | os.O_NOFOLLOW)
            try:
                is_old = time.time() - os.fstat(lock).st_mtime > OLD_S
                if place != directory and is_old and is_locked(lock):
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)


async def _serve(key: str, directory: Path, path: str, options: ServerOptions) -> None:
    service = Service(key, Workplaces(directory), options.idle)
    say, warn = (_without_name(log) for log in (LOGGER.info, LOGGER.warning))
    callbacks = Callbacks(service.report, _no_leases, service.broken, say, warn)
    run_root = Path(tempfile.mkdtemp(prefix=SPOOL_PREFIX, dir=directory))
    dispatch = DispatchConfig(idle=options.idle, results_kept=RESULTS_KEPT)
    config = build_config(run_root=run_root, dispatch=dispatch, **options.pool)
    given = {name: value for name, value in options.pool.items() if value is not None}
    pool = Pool(
        replace(
            config,
            is_temporary=True,
            origin=Origin("server", given, {"gpupool": __version__}),
            surroundings=service.workplaces.surroundings,
            max_events_bytes=MAX_EVENTS_BYTES,
            listener=Hearers(service.relay, service.printouts, DayLog(LOGGER)),
        ),
        callbacks,
    )
    try:
        service.opened(pool)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop_now, service, pool, number)
        for warning in config.warnings:
            LOGGER.warning("%s", warning)
        names = ", ".join(device.name for device in config.devices)
        what = f"gpupool {__version__} serves on {names}, process {os.getpid()}, {path}"
        LOGGER.info(what)
        loading = asyncio.ensure_future(_preload(service, options.preload))
        await _answer(service, key, path, options.server_idle_s)
        await loading
    finally:
        jobs = f"{service.done} jobs done, {service.failed} failed"
        LOGGER.info("the server ends: %s; %s", service.why_ended or "it has failed", jobs)
        await asyncio.to_thread(pool.close)


async def _preload(service: Service, message: dict[str, Any]) -> None:
    if not message:
        return
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    answer = await service.run(message, loop.create_future())
    tool = message["tool"]
    if answer["type"] == "done":
        LOGGER.info("%s is loaded, after %.1f s", tool, loop.time() - began_s)
    else:
        LOGGER.error("%s cannot be loaded: %s", tool, answer.get("message") or answer.get("why"))


def _stop_now(service: Service, pool: Pool, number: int) -> None:
    name = signal.Signals(number).name
    service.end(f"it got {name}")
    pool.cancel(f"ended by {name}")


async def _answer(service: Service, key: str, path: str, idle_s: float | None) -> None:
    """Answer clients until the server is to end, and those that it has jobs of to their end."""
    listener = await _listening(service, path)
    own = os.stat(path).st_ino
    while not service.ending.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.ending.wait(), LOOK_S)
        await service.upkeep.look_after(service.pool)
        if _is_out_of_use(service, idle_s):
            service.end(f"it was out of use for {time.monotonic() - service.used_s:.0f} s")
        elif key_of(os.environ) != key:
            service.end("gpupool was installed anew")
        elif _inode(path) != own:
            if not os.path.isdir(os.path.dirname(path)):
                service.end("its directory was removed")
                break
            LOGGER.warning("%s was removed, and is made again", path)
            listener.close()
            listener = await _listening(service, path)
            own = os.stat(path).st_ino
    with contextlib.suppress(OSError):
        if _inode(path) == own:
            os.unlink(path)  # a client that comes now starts another server, or finds none
    listener.close()
    while service.clients:
        await asyncio.sleep(0.02)


def _is_out_of_use(service: Service, idle_s: float | None) -> bool:
    unused_s = time.monotonic() - service.used_s
    if service.clients:
        return False
    if idle_s is not None:
        return unused_s >= idle_s
    return unused_s >= SERVER_IDLE_S and not service.upkeep.has_models


async def _listening(service: Service, path: str) -> asyncio.Server:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of a server that was killed: its lock is ours now
    umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(service.connected, path, backlog=BACKLOG)
    finally:
        os.umask(umask)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def _without_name(log: Callable[..., None]) -> Callable[[str], None]:
    """Return what takes lines for a user, all of which say who speaks: a log need not."""
    return lambda line: log("%s", line.removeprefix("gpupool: "))


def _no_leases(*wanted: object) -> None:
    raise AssertionError("a server asks for no leases")
