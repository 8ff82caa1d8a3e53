"""Jobs that the pool does not serve, run on a node: plain Dask tasks that start a process.

A job with devices runs on the node that has them, any other where Dask finds enough free
threads. If the node is lost, its processes are lost with it, and the job is run again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Future, get_worker

from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.hosts.time_limit import LIMIT_CODE, TimeLimit

if TYPE_CHECKING:
    from snakemake_executor_gpupool.hosts.cluster.engine import Engine

#: The Dask resource that counts a node's cores.
CORES = "gpupool-cores"
#: How often to check whether a node is still there.
LOOK_S = 1.0
#: How many nodes may be lost under a job without devices before it fails.
MAX_LOSSES = 3


class NodeProcesses:
    """The commands that run in one agent's process; its Dask tasks' threads wait for them.

    Parameters
    ----------
    watch, forget
        Called with a process group that must be killed if the agent is, and at the group's end.
    lend, take_back
        Called to let a command's job use the devices that its lease names, and to end that.
    """

    def __init__(
        self,
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        lend: Callable[[str, str], None] = lambda holder, lease: None,
        take_back: Callable[[str], None] = lambda holder: None,
    ) -> None:
        self._watch = watch
        self._forget = forget
        self._lend = lend
        self._take_back = take_back
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._ended = False

    def run(
        self,
        command: str,
        cwd: str,
        environment: dict[str, str],
        log: str,
        limit_s: float | None = None,
    ) -> int:
        """Run a shell command to its end, or its limit. Called on a Dask task's thread.

        Returns
        -------
        int
            The exit code; ``LIMIT_CODE`` if it took longer than its limit and was ended.
        """
        # The lease's text is unique in this run, so it also names the holder.
        lease = environment.get(LEASE_VARIABLE, "")
        if lease:
            self._lend(lease, lease)
        with self._lock:
            if self._ended:
                return -signal.SIGTERM
            with Path(log).open("ab") as output:
                process = subprocess.Popen(  # noqa: S602 - Snakemake builds and quotes the command
                    command,
                    shell=True,
                    executable="/bin/bash",
                    cwd=cwd,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            self._groups.add(process.pid)
        self._watch(process.pid)
        limit = TimeLimit(process.pid, limit_s)
        try:
            # Not reaped yet: until then its number is its own.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            limit.over()
            if limit.is_reached:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            return LIMIT_CODE if limit.is_reached else code
        finally:
            with self._lock:
                self._groups.discard(process.pid)
            self._forget(process.pid)
            if lease:
                self._take_back(lease)

    def end(self) -> None:
        """Kill every running command, and start no more."""
        with self._lock:
            self._ended = True
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def run_here(
    plugin: str,
    command: str,
    cwd: str,
    environment: dict[str, str],
    log: str,
    limit_s: float | None = None,
) -> int | None:
    """Run a command on the node that this Dask task was sent to; None: no session is open there."""
    processes: NodeProcesses | None = get_worker().plugins[plugin].processes
    if processes is None:
        return None
    return processes.run(command, cwd, environment, log, limit_s)


class NodeCommands:
    """The coordinator's side.

    Parameters
    ----------
    engine
        Dask.
    address_of
        Returns the address of a node's agent; None: the node is lost.
    logs
        Directory for what the commands print, on the file system that all nodes share.
    """

    def __init__(self, engine: Engine, address_of: Callable[[str], str | None], logs: Path) -> None:
        self._engine = engine
        self._address_of = address_of
        self._logs = logs
        self._numbers = itertools.count(1)
        self._futures: set[Future] = set()
        self._is_cancelled = False
        logs.mkdir(mode=0o700, exist_ok=True)

    def run(
        self,
        command: str,
        environment: dict[str, str],
        node: str = "",
        threads: int = 0,
        limit_s: float | None = None,
    ) -> int | None:
        """Run a command on a node, or on any with enough free threads; wait for its end.

        Returns
        -------
        int or None
            The exit code, or ``LIMIT_CODE``; None: the node was lost.
        """
        number = next(self._numbers)
        log = self._logs / f"{number}.log"
        where: dict[str, Any] = {"resources": {CORES: threads}, "retries": MAX_LOSSES}
        if node:
            address = self._address_of(node)
            if address is None:
                return None
            where = {"workers": [address], "allow_other_workers": False}
        future = self._engine.client.submit(
            run_here,
            self._engine.plugin_name,
            command,
            str(Path.cwd()),
            environment,
            str(log),
            limit_s,
            key=f"{self._engine.plugin_name}-{number}",
            pure=False,
            **where,
        )
        self._futures.add(future)
        if self._is_cancelled:
            future.cancel()
        try:
            code = self._wait(future, node)
        finally:
            self._futures.discard(future)
        if log.exists() and code is not None:
            # Its output goes where a local job's goes.
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
            log.unlink()
        return code

    def _wait(self, future: Future, node: str) -> int | None:
        address = self._address_of(node) if node else None
        while True:
            try:
                return future.result(timeout=LOOK_S)  # type: ignore[no-any-return]
            except TimeoutError:
                if node and self._address_of(node) != address:
                    future.cancel()
                    return None
            except Exception:  # Dask reports a lost worker in many ways
                return None

    @property
    def pending(self) -> int:
        """How many commands run or wait for a node."""
        return len(self._futures)

    def cancel(self) -> None:
        """Cancel all tasks, later ones too; their processes end with the agents' sessions."""
        self._is_cancelled = True
        for future in list(self._futures):
            future.cancel()
