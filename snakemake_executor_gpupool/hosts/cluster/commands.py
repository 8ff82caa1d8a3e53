"""Jobs that the pool does not serve, run on nodes: the coordinator's side.

::

    lane's thread ── run ──► queue ── RunCommand ──► agent: NodeProcesses
                  ◄─ code ──         ◄─ CommandDone ──

A job with devices runs on the node that has them, any other where enough cores are free. If the
node is lost, its processes are lost with it, and the job is run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import threading
from pathlib import Path

from snakemake_executor_gpupool.hosts.cluster.messages import CommandDone, RunCommand
from snakemake_executor_gpupool.hosts.cluster.nodes import Node
from snakemake_executor_gpupool.hosts.cluster.shell_command import FAILED_CODE, ShellCommand

#: How many later commands may overtake one that does not fit the free cores.
MAX_OVERTAKES = 32


@dataclasses.dataclass(eq=False)
class _Place:
    """A node that takes commands."""

    node: Node
    cores: int
    free: int
    is_leaving: bool = False


@dataclasses.dataclass(eq=False)
class _Command:
    """A command that waits or runs.

    Attributes
    ----------
    place
        Where it runs; None: it waits.
    """

    request: RunCommand
    place: _Place | None = None
    overtaken: int = 0
    answer: CommandDone | None = None
    is_over: threading.Event = dataclasses.field(default_factory=threading.Event)


class NodeCommands:
    """The commands of a run, and the cores of its nodes; any thread may call.

    Parameters
    ----------
    logs
        Directory for what the commands print, on the file system that all nodes share.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._commands: dict[int, _Command] = {}
        self._waiting: list[_Command] = []
        self._is_cancelled = False
        self._why_no_nodes = ""
        logs.mkdir(mode=0o700, exist_ok=True)

    def run(
        self,
        command: str | ShellCommand,
        environment: dict[str, str],
        node: str = "",
        threads: int = 0,
        limit_s: float | None = None,
    ) -> int | None:
        """Run a command on a node, or on any with enough free cores; wait for its end.

        Returns
        -------
        int or None
            The exit code, ``LIMIT_CODE`` or ``LEFT_CODE``; None: the node was lost.
        """
        number = next(self._numbers)
        shell = command if isinstance(command, ShellCommand) else ShellCommand(command)
        log = self._logs / f"{number}.log"
        request = RunCommand(
            number, shell, str(Path.cwd()), environment, str(log), limit_s, threads
        )
        waiting = self._submit(_Command(request), node)
        if waiting is None:
            return None
        waiting.is_over.wait()
        return self._ended(waiting, log)

    def _submit(self, command: _Command, node: str) -> _Command | None:
        with self._lock:
            place = self._places.get(node) if node else None
            if self._is_cancelled or (node and place is None):
                return None
            self._commands[command.request.number] = command
            if place is not None:
                self._send(command, place)
            else:
                self._waiting.append(command)
                self._place_waiting()
        return command

    def _ended(self, command: _Command, log: Path) -> int | None:
        """Return a command's exit code, and print what it has printed."""
        answer = command.answer
        if answer is None:
            return None
        said = answer.said
        if answer.has_log:
            with contextlib.suppress(OSError):  # its exit code counts, whatever became of the log
                said += log.read_text(encoding="utf-8", errors="replace")
                log.unlink()
        if said and answer.code not in ShellCommand.NO_EXIT_CODES:
            # Its output goes where a local job's goes; that of one that runs again nowhere.
            sys.stderr.write(said)
        return answer.code

    # -- where they run; the lock is held --------------------------------------------------
    def _send(self, command: _Command, place: _Place) -> None:
        command.place = place
        place.node.tell(command.request)

    def _place_waiting(self) -> None:
        """Send the commands that there are cores for, in order."""
        if self._why_no_nodes and not self._places:
            self._refuse_waiting()
        kept: list[_Command] = []
        places = [place for place in self._places.values() if not place.is_leaving]
        most = max((place.cores for place in places), default=0)
        queue = iter(self._waiting)
        for command in queue:
            place = _best(places, command.request.threads, most)
            if place is not None:
                threads = min(command.request.threads, place.cores)
                command.request = dataclasses.replace(command.request, threads=threads)
                place.free -= threads
                self._send(command, place)
                for passed in kept:
                    passed.overtaken += 1
                continue
            kept.append(command)
            # No core is free, or the first one was overtaken often enough.
            if kept[0].overtaken >= MAX_OVERTAKES or not any(each.free > 0 for each in places):
                break
        self._waiting = [*kept, *queue]

    def _refuse_waiting(self) -> None:
        refused, self._waiting = self._waiting, []
        for command in refused:
            said = f"gpupool: a job cannot be started: {self._why_no_nodes}\n"
            self._over(command, CommandDone(command.request.number, FAILED_CODE, said))

    def _over(self, command: _Command, answer: CommandDone | None) -> None:
        del self._commands[command.request.number]
        if command.place is not None:
            command.place.free += command.request.threads
        command.answer = answer
        command.is_over.set()

    # -- what becomes of nodes and commands ------------------------------------------------
    def joined(self, node: Node, cores: int) -> None:
        """Send commands to a node from now on."""
        with self._lock:
            self._why_no_nodes = ""
            self._places[node.name] = _Place(node, cores, cores)
            self._place_waiting()

    def leaving(self, name: str) -> None:
        """Send a node nothing more, but for jobs with devices there."""
        with self._lock:
            if name in self._places:
                self._places[name].is_leaving = True

    def gone(self, name: str) -> None:
        """Note that a node is lost, and its commands with it."""
        with self._lock:
            place = self._places.pop(name, None)
            for command in list(self._commands.values()) if place is not None else ():
                if command.place is place:
                    self._over(command, None)
            self._place_waiting()

    def done(self, answer: CommandDone) -> None:
        """Note that a command has ended."""
        with self._lock:
            command = self._commands.get(answer.number)
            if command is None:
                return  # its node counts as lost
            self._over(command, answer)
            self._place_waiting()

    def no_more_nodes(self, why: str) -> None:
        """Let commands fail that no node is left for: no more will come."""
        with self._lock:
            self._why_no_nodes = why
            self._place_waiting()

    def are_on(self, name: str) -> bool:
        """Return whether any command runs on a node."""
        with self._lock:
            place = self._places.get(name)
            there = (each.place for each in self._commands.values())
            return place is not None and place in there

    @property
    def pending(self) -> int:
        """How many commands run or wait for a node."""
        return len(self._commands)

    def cancel(self) -> None:
        """Wait for no command any more, nor start one; they end with the agents' sessions."""
        with self._lock:
            self._is_cancelled = True
            self._waiting = []
            for command in list(self._commands.values()):
                self._over(command, None)


def _best(places: list[_Place], threads: int, most: int) -> _Place | None:
    """Return the node with most free cores of those that have enough; None: none has.

    A command that wants more than any node has gets all of one of the largest.
    """
    wanted = min(threads, most)
    fitting = [place for place in places if place.free >= wanted]
    return max(fitting, key=lambda place: place.free, default=None)
