"""Jobs that the pool does not serve, on the node that they run on; a thread waits for each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.hosts.cluster.shell_command import ShellCommand
from snakemake_executor_gpupool.hosts.leftovers import Mark, wait_for
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE, LIMIT_CODE, TimeLimit

#: How much later than a job the agent may get the signal that ended both.
LATER_S = 0.5
#: How often a command that waits for another run's checks whether it is to end.
LOOK_S = 0.5


class SharedCores:
    """The cores of this process, for the commands of all runs that it is an agent of.

    One run never sends more than there is room for; two know nothing of each other.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._used = 0

    def take(self, threads: int, cores: int, is_over: Callable[[], bool]) -> None:
        """Wait until so many of the cores are free, or until it is over, and take them."""
        with self._condition:
            while self._used and self._used + threads > cores and not is_over():
                self._condition.wait(LOOK_S)
            self._used += threads

    def give_back(self, threads: int) -> None:
        """Give cores back."""
        with self._condition:
            self._used -= threads
            self._condition.notify_all()


class NodeProcesses:
    """The commands that run in one agent's process; threads of its session wait for them.

    Parameters
    ----------
    watch, forget
        Called with a process group that must be killed if the agent is, and the mark of further
        processes, if they must be killed at its end, too; and at the group's end.
    lend, take_back
        Called to let a command's job use the devices that its lease names, and to end that.
    """

    def __init__(
        self,
        watch: Callable[[int, str], None],
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
        """Run a shell command to its end, or its limit. Called on a thread of its own.

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
            mark = Mark(holds_devices=bool(lease))
            with Path(log).open("ab") as output:
                process = subprocess.Popen(  # noqa: S602 - Snakemake builds and quotes the command
                    shell.text,
                    shell=True,
                    executable=shell.executable,
                    cwd=cwd,
                    env=shell.variables({**os.environ, **environment, **mark.variables}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            limit = self._running[process.pid] = TimeLimit(
                process.pid, limit_s, others=mark.processes
            )
        self._watch(process.pid, mark.text)
        try:
            code = wait_for(process, holds_devices=bool(lease), ended=limit.over, mark=mark)
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
