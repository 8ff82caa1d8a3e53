"""Jobs that the pool does not serve, on the node that they run on.

Dask runs a task for each, on a thread that waits for the job's process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import get_worker

from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.hosts.cluster.shell_command import ShellCommand
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE, LIMIT_CODE, TimeLimit

#: How much later than a job the agent may get the signal that ended both.
LATER_S = 0.5
#: How long an agent may take to join, and how often a job that waits for it looks.
JOIN_S = 30.0
JOIN_POLL_S = 0.05
#: What the name of such a file ends in.
MARK = ".agent"


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
        self._running: dict[int, TimeLimit] = {}
        self._told_to_end = threading.Event()
        self._ended = False

    @property
    def are_running(self) -> bool:
        """Whether any command runs."""
        return bool(self._running)

    def run(
        self,
        command: str | ShellCommand,
        cwd: str,
        environment: dict[str, str],
        log: str,
        limit_s: float | None = None,
    ) -> int:
        """Run a shell command to its end, or its limit. Called on a Dask task's thread.

        Returns
        -------
        int
            The exit code; ``LIMIT_CODE`` if it took longer than its limit and was ended, and
            ``LEFT_CODE`` if the node was told to end, and the command with it.
        """
        shell = command if isinstance(command, ShellCommand) else ShellCommand(command)
        # The lease's text is unique in this run, so it also names the holder.
        lease = environment.get(LEASE_VARIABLE, "")
        if lease:
            self._lend(lease, lease)
        with self._lock:
            if self._ended or self._told_to_end.is_set():
                return LEFT_CODE if self._told_to_end.is_set() else -signal.SIGTERM
            with Path(log).open("ab") as output:
                process = subprocess.Popen(  # noqa: S602 - Snakemake builds and quotes the command
                    shell.text,
                    shell=True,
                    executable=shell.executable,
                    cwd=cwd,
                    env=shell.variables({**os.environ, **environment}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            limit = self._running[process.pid] = TimeLimit(process.pid, limit_s)
        self._watch(process.pid)
        try:
            # Not reaped yet: until then its number is its own.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            limit.over()
            if limit.is_reached:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            if self._is_left(code):
                return LEFT_CODE
            return LIMIT_CODE if limit.is_reached else code
        finally:
            with self._lock:
                del self._running[process.pid]
            self._forget(process.pid)
            if lease:
                self._take_back(lease)

    def _is_left(self, code: int) -> bool:
        """Whether a command that has ended is to run elsewhere, whatever its exit code.

        A signal for all of the node's processes may reach a command before it reaches us; and
        what a command has left that was asked to end cannot be told from what it should leave.
        """
        if code == 0:
            return self._told_to_end.is_set()
        return self._told_to_end.wait(LATER_S)

    def told_to_end(self) -> None:
        """Ask every running command to end, and start no more; returns at once."""
        with self._lock:
            self._told_to_end.set()
            for limit in self._running.values():
                limit.end_now()

    def end(self) -> None:
        """Kill every running command, and start no more."""
        with self._lock:
            self._ended = True
            for group in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def where_it_ran(log: str | Path) -> Path:
    """Return the file with the address of the agent that a command was begun by.

    It stays until the end of the run: Dask computes a task anew whose result was on a node that
    is lost, even if the result is known.
    """
    return Path(f"{log}{MARK}")


def run_here(
    plugin: str,
    command: str | ShellCommand,
    cwd: str,
    environment: dict[str, str],
    log: str,
    limit_s: float | None = None,
) -> int | None:
    """Run a command on the node that this Dask task was sent to.

    Returns
    -------
    int or None
        As :meth:`NodeProcesses.run`; None: no session is open there, or Dask has sent the task
        anew since another node was lost: whoever submitted it must know.
    """
    worker = get_worker()
    processes = _processes_of(worker, plugin)
    if processes is None:
        return None
    try:
        with where_it_ran(log).open("x", encoding="utf-8") as marker:
            marker.write(worker.address)
    except FileExistsError:
        return None
    if isinstance(command, ShellCommand):
        code = command.code_before(cwd, log)
        if code is not None:
            return code
    return processes.run(command, cwd, environment, log, limit_s)


def _processes_of(worker: Any, plugin: str) -> NodeProcesses | None:
    """Wait for the agent of a Dask worker to join the run; Dask knows of the worker before."""
    deadline_s = time.monotonic() + JOIN_S
    while time.monotonic() < deadline_s:
        agent = worker.plugins.get(plugin)
        processes: NodeProcesses | None = agent.processes if agent is not None else None
        if processes is not None:
            return processes
        time.sleep(JOIN_POLL_S)
    return None
