"""Which nodes take part in a run: from an agent's announcement to the loss of the node.

::

    announced ──► begun, writes a probe ──► joined ──► drained ──► lost
                    └── does not see our files ──► refused
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.base import (
    Carried,
    DevicesExpected,
    DevicesJoined,
    DevicesLeft,
    HostEvent,
    WorkerGone,
)
from snakemake_executor_gpupool.hosts.cluster.commands import NodeCommands
from snakemake_executor_gpupool.hosts.cluster.endpoint import Endpoint
from snakemake_executor_gpupool.hosts.cluster.engine import Engine
from snakemake_executor_gpupool.hosts.cluster.launch import Launcher
from snakemake_executor_gpupool.hosts.cluster.messages import (
    Begin,
    CommandDone,
    End,
    Joined,
    Message,
    unpack,
)
from snakemake_executor_gpupool.hosts.cluster.nodes import RETRY_S, Node
from snakemake_executor_gpupool.hosts.cluster.options import ClusterOptions
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.hosts.mailbox import Mailbox
from snakemake_executor_gpupool.records.paths import RunPaths

#: A node whose time ends this soon gets nothing new.
DRAIN_S = 20.0
#: How much later than an agent the coordinator gives up: the agent's processes have ended then.
MARGIN_S = 10.0
#: How often launchers are polled.
LOOK_S = 1.0


class Membership:
    """The nodes of a run.

    Parameters
    ----------
    local
        This machine: runs what belongs here, and does the waiting.
    engine
        Dask.
    launcher
        Gets nodes and keeps them.
    paths
        The run's files, on the file system that all nodes share.
    begin
        The first message to every agent, without its own probe and token.
    options
        As the user gave them.
    say
        Takes a line for the user.
    resources
        Closed at the end of the run: Dask, launchers, credentials.
    """

    def __init__(
        self,
        local: LocalHost,
        engine: Engine,
        launcher: Launcher,
        paths: RunPaths,
        begin: Begin,
        options: ClusterOptions,
        say: Callable[[str], None],
        resources: contextlib.ExitStack,
    ) -> None:
        self._local = local
        self._engine = engine
        self._launcher = launcher
        self._paths = paths
        self._begin = begin
        self._options = options
        self._say = say
        self._resources = resources
        self._nodes: dict[str, Node] = {}
        self._where: dict[str, Node] = {}
        self._complaints: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._inbox: Mailbox[Callable[[], None]] = Mailbox(local.wake)
        self._events: list[HostEvent] = []
        self._unfit: list[str] = []
        self._said: set[str] = set()
        self._looked_s = 0.0
        self._closed = False
        self._has_hope = True
        self.carried = Carried()
        self.commands = NodeCommands(paths.directory / "commands")
        engine.watch(lambda announced: self._post(lambda: self._meet(announced)))

    # -- from the event loop --------------------------------------------------------
    def _post(self, act: Callable[[], None]) -> None:
        self._inbox.post(act)

    # -- nodes ----------------------------------------------------------------------
    def _meet(self, announcement: Mapping[str, str]) -> None:
        """An agent has announced itself: begin a session with it."""
        if any(node.address == announcement["address"] for node in self._nodes.values()):
            return
        for node in list(self._nodes.values()):
            if node.place == announcement["place"]:
                self._lost(node, "its agent was started again")
        name = self._free_name(announcement["node"])
        endpoint = Endpoint(self._engine.loop, lambda data: self._arrived(node, data))
        session = f"{self._paths.run_id}-{next(self._numbers)}"
        token = secrets.token_hex(8)
        node = Node(
            name,
            announcement["address"],
            announcement["place"],
            announcement["name"],
            session,
            endpoint,
            token,
        )
        self._nodes[name] = node
        probe = self._probe(node)
        probe.write_text(token, encoding="utf-8")
        node.tell(replace(self._begin, probe=str(probe), token=token))
        self._engine.run(self._keep(node))

    def leaving(self, names: set[str]) -> None:
        """Place nothing more on nodes that are to be given back; any thread may call."""
        for name in names:
            self.commands.leaving(name)
        self._post(lambda: self._drain(names, "it is being given back"))

    def _drain(self, names: Iterable[str], why: str) -> None:
        for node in map(self._nodes.get, names):
            if node is not None and node.is_usable:
                node.is_leaving = True
                self.commands.leaving(node.name)
                self._events.append(DevicesLeft(tuple(node.devices), why))

    def _told_to_end(self, node: Node, why: str) -> None:
        """A node's agent was told to end: it goes on only with what it is at."""
        if node.is_told_to_end or self._nodes.get(node.name) is not node:
            return
        if not node.is_leaving and not self._closed:
            self._say_once(
                f"node {node.name} was told to end ({why}): it finishes what it is computing, "
                "the rest of its work goes to others"
            )
        node.is_leaving = node.is_told_to_end = True
        self.commands.leaving(node.name)
        names = tuple(node.devices)
        self._events.append(DevicesLeft(names, f"it was told to end ({why})", at_once=True))
        self._let_go(node)

    def _let_go(self, node: Node) -> None:
        """End a node's part that was told to end, once nothing computes on it."""
        if node.is_told_to_end and not node.workers and not self.commands.are_on(node.name):
            node.tell(End())

    def _free_name(self, wanted: str) -> str:
        names = itertools.chain([wanted], (f"{wanted}.{n}" for n in itertools.count(2)))
        return next(name for name in names if name not in self._nodes)

    def _probe(self, node: Node) -> Path:
        return self._paths.directory / f"node-{node.name}.probe"

    async def _keep(self, node: Node) -> None:
        """Stay connected to an agent until it is lost; runs on the event loop."""
        limit_s = self._options.link_timeout_s + MARGIN_S
        why = await node.until_lost(self._engine.connect, limit_s)
        self._post(lambda: self._lost(node, why))

    def _arrived(self, node: Node, data: bytes) -> None:
        answer = unpack(data)
        if isinstance(answer, Joined):
            self._engine.loop.create_task(self._verify(node, answer))
        elif isinstance(answer, CommandDone):  # here, so that the next one starts at once
            self.commands.done(answer)
            if node.is_told_to_end:
                self._post(lambda: self._let_go(node))
        else:
            self._post(lambda: self._answered(node, answer))

    async def _verify(self, node: Node, joined: Joined) -> None:
        """Wait for the file that the agent wrote: a network file system may show it late."""
        answer = self._probe(node).with_suffix(f".{node.token}")
        deadline_s = time.monotonic() + self._begin.latency_wait_s
        while not answer.exists() and time.monotonic() < deadline_s:
            await asyncio.sleep(RETRY_S)
        if answer.exists():
            answer.unlink()
            self._post(lambda: self._joined(node, joined))
        else:
            self._post(
                lambda: self._refused(node, f"a file that it wrote, {answer}, is not visible here")
            )

    def _joined(self, node: Node, joined: Joined) -> None:
        if self._nodes.get(node.name) is not node or node.is_told_to_end:
            return
        self._probe(node).unlink(missing_ok=True)
        node.has_joined = True
        if joined.ends_in_s is not None:
            node.ends_s = time.monotonic() + joined.ends_in_s
        self._launcher.joined(node.name, node.dask_name)
        for note in joined.notes:
            self._say_once(f"{node.name}: {note}")
        self.commands.joined(node, joined.cores)
        self._offered(node, joined.devices)

    def _offered(self, node: Node, offered: Iterable[Device]) -> None:
        devices = tuple(device.on(node.name) for device in offered)
        node.devices.update({device.name: device for device in devices})
        self._events.append(DevicesJoined(devices, node.ends_s))

    def _refused(self, node: Node, why: str) -> None:
        self._nodes.pop(node.name, None)
        node.tell(End())
        problem = (
            f"node {node.name} cannot take part: {why}. The workflow's directory must be on a "
            f"file system that all nodes share ({self._begin.cwd})"
        )
        self._unfit.append(problem)
        self._say_once(problem)

    def _lost(self, node: Node, why: str) -> None:
        """A node is lost, and with it every process on it."""
        if self._nodes.get(node.name) is not node:
            return
        del self._nodes[node.name]
        node.is_given_up = True
        self._engine.loop.call_soon_threadsafe(node.endpoint.drop)
        self._launcher.gone(node.name)
        self.commands.gone(node.name)
        self._events.append(DevicesLeft(tuple(node.devices), why))
        if not self._closed and not node.is_leaving:
            self._say_once(f"node {node.name} is lost: {why}; its work goes to others")
        for worker_id in node.workers:
            del self._where[worker_id]
            self._complaints.pop(worker_id, None)
            reason = f"node {node.name} was lost: {why}"
            self._events.append(WorkerGone(worker_id, reason, expected=False, blameless=True))

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    def _answered(self, node: Node, answer: Message) -> None:
        """Handle a message of an agent about its workers."""
        raise NotImplementedError

    @property
    def _joined_nodes(self) -> int:
        return sum(node.has_joined for node in self._nodes.values())

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        ending = [node.name for node in self._nodes.values() if node.ends_s - now_s < DRAIN_S]
        self._drain(ending, "its time limit is near")
        self._launcher.look(now_s)
        had_hope, self._has_hope = self._has_hope, self._launcher.has_hope or self._closed
        if had_hope and not self._has_hope:
            self.commands.no_more_nodes(f"no node is left; {self._launcher.where_to_look()}")
            self._events.append(DevicesExpected(()))
