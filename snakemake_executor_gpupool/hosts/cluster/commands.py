"""Jobs that the pool does not serve, run on a node: plain Dask tasks that start a process.

A job with devices runs on the node that has them, any other where Dask finds enough free
threads. If the node is lost, its processes are lost with it, and the job is run again.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Future, KilledWorker

from snakemake_executor_gpupool.hosts.cluster.processes import MARK, run_here, where_it_ran
from snakemake_executor_gpupool.hosts.cluster.shell_command import (
    OTHER_PLACE_CODE,
    ShellCommand,
)
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE

if TYPE_CHECKING:
    from snakemake_executor_gpupool.hosts.cluster.engine import Engine

#: The Dask resource that counts a node's cores.
CORES = "gpupool-cores"
#: Of a job that its node could not start.
FAILED_CODE = 1
#: How often to check whether a node is still there.
LOOK_S = 1.0


class NodeCommands:
    """The coordinator's side.

    Parameters
    ----------
    engine
        Dask.
    address_of
        Returns the address of a node's agent; None: the node is lost.
    is_there
        Tells whether the agent of an address may still have processes.
    logs
        Directory for what the commands print, on the file system that all nodes share.
    """

    def __init__(
        self,
        engine: Engine,
        address_of: Callable[[str], str | None],
        is_there: Callable[[str], bool],
        logs: Path,
    ) -> None:
        self._engine = engine
        self._is_there = is_there
        self._address_of = address_of
        self._logs = logs
        self._numbers = itertools.count(1)
        self._futures: set[Future] = set()
        self._is_cancelled = False
        logs.mkdir(mode=0o700, exist_ok=True)

    def run(
        self,
        command: str | ShellCommand,
        environment: dict[str, str],
        node: str = "",
        threads: int = 0,
        limit_s: float | None = None,
    ) -> int | None:
        """Run a command on a node, or on any with enough free threads; wait for its end.

        Returns
        -------
        int or None
            The exit code, ``LIMIT_CODE`` or ``LEFT_CODE``; None: the node was lost.
        """
        number = next(self._numbers)
        log = self._logs / f"{number}.log"
        where: dict[str, Any] = {"resources": {CORES: threads}}
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
            if code is None:
                self._wait_for_loss(log)
        finally:
            self._futures.discard(future)
            future.release()
        if log.exists() and code not in (None, LEFT_CODE, OTHER_PLACE_CODE):
            # Its output goes where a local job's goes; that of one that runs again nowhere.
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
        if code is not None:
            log.unlink(missing_ok=True)
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
            except Exception as error:  # Dask reports a lost worker in many ways
                if future.status != "error" or isinstance(error, KilledWorker):
                    return None
                # The node is there, and would say the same each time: files it cannot write.
                sys.stderr.write(f"gpupool: a job could not be started on its node: {error!r}\n")
                return FAILED_CODE

    def _wait_for_loss(self, log: Path) -> None:
        """Wait until a lost command has ended: Dask gives a node up that is only silent so far."""
        try:
            address = where_it_ran(log).read_text(encoding="utf-8")
        except OSError:
            return  # it was never begun
        while not self._is_cancelled and self._is_there(address):
            time.sleep(LOOK_S)

    @property
    def pending(self) -> int:
        """How many commands run or wait for a node."""
        return len(self._futures)

    def tidy(self) -> None:
        """Remove what kept Dask from running a command twice; no task is left now."""
        for marker in self._logs.glob(f"*{MARK}"):
            marker.unlink(missing_ok=True)

    def cancel(self) -> None:
        """Cancel all tasks, later ones too; their processes end with the agents' sessions."""
        self._is_cancelled = True
        for future in list(self._futures):
            future.cancel()
