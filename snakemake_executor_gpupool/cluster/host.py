"""Several machines as one host: every call goes to the agent of the node that it concerns.

::

    run loop ── start, send, stop ──► ClusterHost ──► Node ── endpoint ──► agent ──► LocalHost
             ◄──── happenings ────── inbox ◄────────────────────────────────┘

Devices are named after their node (``n1/cuda:0``), and a process goes where its devices are. One
that reads and writes files goes to the node that the pool names.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import queue
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.cluster.commands import NodeCommands
from snakemake_executor_gpupool.cluster.endpoint import Endpoint
from snakemake_executor_gpupool.cluster.engine import Engine
from snakemake_executor_gpupool.cluster.launch import Launcher
from snakemake_executor_gpupool.cluster.messages import Begin, unpack
from snakemake_executor_gpupool.cluster.nodes import RETRY_S, Node
from snakemake_executor_gpupool.cluster.options import ClusterOptions
from snakemake_executor_gpupool.devices.model import Device
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.host import (
    GRACE_S,
    Carried,
    Demand,
    DevicesExpected,
    DevicesJoined,
    DevicesLeft,
    FrameArrived,
    Happening,
    LocalHost,
    WorkerGone,
)
from snakemake_executor_gpupool.paths import RunPaths
from snakemake_executor_gpupool.request import ToolRef
from snakemake_executor_gpupool.workers.protocol import Blob, Frame

#: A node whose time is up so soon gets nothing new.
DRAIN_S = 20.0
#: How much later than an agent the coordinator gives up: its processes have ended by then.
MARGIN_S = 10.0
#: How often launchers are looked at.
LOOK_S = 1.0

#: Frames to workers whose files another node may have written.
_WAITED_FOR = frozenset({"read", "write", "publish", "run", "chain"})
_OWN_VARIABLES = ("GPUPOOL_SIMULATED", "GPUPOOL_LOCK_DIR", "GPUPOOL_WORKER")


class ClusterHost:
    """The machines of a cluster, and this one.

    Parameters
    ----------
    local
        This machine: for what runs here, and for waiting.
    engine
        Dask.
    launcher
        Gets nodes and keeps them.
    paths
        The run's files, on the file system that all nodes share.
    begin
        What agents are told first, but for their own probe and token.
    options
        As the user gave them.
    say
        Takes a line for the user.
    resources
        Closed at the end: Dask, launchers, credentials.
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
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._found: list[Happening] = []
        self._unfit: list[str] = []
        self._said: set[str] = set()
        self._looked_s = 0.0
        self._closed = False
        self.carried = Carried()
        self._has_hope = True
        self.commands = NodeCommands(engine, self._address_of, paths.directory / "commands")
        engine.watch(lambda told: self._post(lambda: self._meet(told)))

    # -- from the event loop --------------------------------------------------------
    def _post(self, act: Callable[[], None]) -> None:
        self._inbox.put(act)
        self._local.wake()

    def wake(self) -> None:
        """Make a waiting :meth:`poll` return; callable from any thread and signal handler."""
        self._local.wake()

    # -- nodes ----------------------------------------------------------------------
    def _meet(self, told: Mapping[str, str]) -> None:
        """An agent is there: begin with it."""
        if any(node.address == told["address"] for node in self._nodes.values()):
            return
        for node in list(self._nodes.values()):
            if node.place == told["place"]:
                self._lost(node, "its agent was started again")
        name = self._free_name(told["node"])
        endpoint = Endpoint(self._engine.loop, lambda data: self._arrived(node, data))
        session = f"{self._paths.run_id}-{next(self._numbers)}"
        token = secrets.token_hex(8)
        node = Node(name, told["address"], told["place"], told["name"], session, endpoint, token)
        self._nodes[name] = node
        probe = self._probe(node)
        probe.write_text(token, encoding="utf-8")
        node.tell("begin", {**asdict(self._begin), "probe": str(probe), "token": token})
        self._engine.run(self._keep(node))

    def _address_of(self, name: str) -> str | None:
        node = self._nodes.get(name)
        return node.address if node else None

    def leaving(self, names: set[str]) -> None:
        """Put nothing more on nodes that are to be given back; from any thread."""
        self._post(lambda: self._drain(names, "it is given back"))

    def _drain(self, names: Iterable[str], why: str) -> None:
        for node in map(self._nodes.get, names):
            if node is not None and node.is_usable:
                node.is_leaving = True
                self._found.append(DevicesLeft(tuple(node.devices), why))

    def _free_name(self, wanted: str) -> str:
        names = itertools.chain([wanted], (f"{wanted}.{n}" for n in itertools.count(2)))
        return next(name for name in names if name not in self._nodes)

    def _probe(self, node: Node) -> Path:
        return self._paths.directory / f"node-{node.name}.probe"

    async def _keep(self, node: Node) -> None:
        """Stay connected to an agent until it is lost; on the event loop."""
        limit_s = self._options.link_timeout_s + MARGIN_S
        why = await node.until_lost(self._engine.connect, limit_s)
        self._post(lambda: self._lost(node, why))

    def _arrived(self, node: Node, data: bytes) -> None:
        frame = unpack(data)
        if frame.type == "joined":
            self._engine.loop.create_task(self._verify(node, frame))
        else:
            self._post(lambda: self._answered(node, frame))

    async def _verify(self, node: Node, frame: Frame) -> None:
        """Look for what the agent wrote, as the network's file systems may take a moment."""
        answer = self._probe(node).with_suffix(f".{node.token}")
        deadline_s = time.monotonic() + self._begin.latency_wait_s
        while not answer.exists() and time.monotonic() < deadline_s:
            await asyncio.sleep(RETRY_S)
        if answer.exists():
            answer.unlink()
            self._post(lambda: self._joined(node, frame.meta))
        else:
            self._post(lambda: self._refused(node, f"what it writes to {answer} is not seen here"))

    def _joined(self, node: Node, meta: dict[str, Any]) -> None:
        if self._nodes.get(node.name) is not node:
            return
        self._probe(node).unlink(missing_ok=True)
        node.has_joined = True
        if meta["ends_in_s"] is not None:
            node.ends_s = time.monotonic() + meta["ends_in_s"]
        self._launcher.joined(node.name, node.dask_name)
        for note in meta["notes"]:
            self._say_once(f"{node.name}: {note}")
        self._offered(node, meta["devices"])

    def _offered(self, node: Node, fields: list[dict[str, Any]]) -> None:
        devices = tuple(Device(**one).on(node.name) for one in fields)
        node.devices.update({device.name: device for device in devices})
        self._found.append(DevicesJoined(devices))

    def _refused(self, node: Node, why: str) -> None:
        self._nodes.pop(node.name, None)
        node.tell("end", {})
        problem = (
            f"node {node.name} cannot take part: {why}. The workflow's directory must be on a "
            f"file system that all nodes share ({self._begin.cwd})"
        )
        self._unfit.append(problem)
        self._say_once(problem)

    def _lost(self, node: Node, why: str) -> None:
        """A node is gone, with all that ran on it."""
        if self._nodes.get(node.name) is not node:
            return
        del self._nodes[node.name]
        node.is_given_up = True
        self._engine.loop.call_soon_threadsafe(node.endpoint.drop)
        self._launcher.gone(node.name)
        self._found.append(DevicesLeft(tuple(node.devices), why))
        if not self._closed and not node.is_leaving:
            self._say_once(f"node {node.name} is lost: {why}; its work goes to others")
        for worker_id in node.workers:
            del self._where[worker_id]
            self._complaints.pop(worker_id, None)
            reason = f"node {node.name} was lost: {why}"
            self._found.append(WorkerGone(worker_id, reason, expected=False, blameless=True))

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    # -- what agents tell -----------------------------------------------------------
    def _answered(self, node: Node, frame: Frame) -> None:
        meta = frame.meta
        match frame.type:
            case "frame":
                told = Frame(meta["meta"], frame.blobs)
                if meta["worker"] in node.workers:
                    self.carried.add(frame.blobs)
                    self._found.append(FrameArrived(meta["worker"], told))
            case "gone":
                if node.workers.pop(meta["worker"], None) is not None:
                    self._gone(meta)
            case "offer":
                self._offered(node, meta["devices"])
            case "unfit":
                self._refused(node, meta["why"])

    def _gone(self, meta: dict[str, Any]) -> None:
        worker_id = meta["worker"]
        del self._where[worker_id]
        self._complaints.pop(worker_id, None)
        self._found.append(WorkerGone(worker_id, meta["reason"], meta["expected"]))

    # -- as any host ----------------------------------------------------------------
    def pids(self) -> list[int]:
        """Return the ids of all worker processes on this machine."""
        return self._local.pids()

    def moved_away(self, worker_id: str) -> bool:
        """Tell whether a worker's weights have left its devices; an agent looks for itself."""
        return worker_id in self._where or self._local.moved_away(worker_id)

    def believes(self, worker_id: str) -> bool:
        """Tell whether a worker's frames still count."""
        return worker_id not in self._complaints and self._local.believes(worker_id)

    def reject(self, worker_id: str, why: str) -> None:
        """End a worker that broke the protocol, and listen to it no more."""
        if worker_id in self._where:
            self._complaints[worker_id] = why
            self.stop(worker_id, force=True, complaint=f"broke the protocol ({why})")
        else:
            self._local.reject(worker_id, why)

    def watch(self, group: int) -> None:
        """Have a process group of this machine killed, should this process be."""
        self._local.watch(group)

    def forget(self, group: int) -> None:
        """A watched process group has ended."""
        self._local.forget(group)

    def start(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        node: str | None = None,
    ) -> int | None:
        """Start a process where its devices are, else on ``node``, else where there is one.

        Return its id if it is one of this machine's.
        """
        name = devices[0].host if devices else node
        place = self._any_node() if name is None else self._nodes.get(name)
        if place is not None:
            self._where[worker_id] = place
            place.workers[worker_id] = devices
            names = [device.local_name for device in devices]
            place.tell("start", {"worker": worker_id, "tool": asdict(tool), "devices": names})
        elif name:
            reason = f"node {name} was lost"
            self._found.append(WorkerGone(worker_id, reason, expected=False, blameless=True))
        else:
            return self._local.start(worker_id, tool, devices)
        return None

    def _any_node(self) -> Node | None:
        """Return the node with the fewest processes that have no device."""
        usable = [node for node in self._nodes.values() if node.is_usable]
        return min(usable, key=lambda node: (node.deviceless, node.name), default=None)

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Send a frame; to a worker that is gone it is lost, as its death will tell."""
        if meta["type"] in _WAITED_FOR:
            # Another node may have written it a moment ago.
            meta = {**meta, "latency_wait_s": self._begin.latency_wait_s}
        node = self._where.get(worker_id)
        if node is None:
            self._local.send(worker_id, meta, blobs)
            return
        node.tell("send", {"worker": worker_id, "meta": dict(meta)}, blobs)

    def flush(self) -> None:
        """Hand what was sent to the operating system."""
        self._local.flush()

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        """Tell a worker to end, and make sure that it does."""
        node = self._where.get(worker_id)
        if node is None:
            self._local.stop(worker_id, force=force, complaint=complaint)
        else:
            node.tell("stop", {"worker": worker_id, "force": force, "complaint": complaint})

    def wants(self, demand: Demand) -> None:
        """Take note of what the pool could use."""
        self._launcher.wants(demand, self.commands.pending)

    def time_left_s(self, devices: Sequence[Device]) -> float:
        """Return how long these devices' node is still ours."""
        node = self._nodes.get(devices[0].host) if devices else None
        return math.inf if node is None else node.ends_s - time.monotonic()

    def poll(self, timeout_s: float) -> list[Happening]:
        """Wait until something happens or the time is up; return what did."""
        happened = self._local.poll(0.0 if self._found else timeout_s)
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()
        self._look(time.monotonic())
        found, self._found = self._found, []
        return [*happened, *found]

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        ending = [node.name for node in self._nodes.values() if node.ends_s - now_s < DRAIN_S]
        self._drain(ending, "its time is nearly up")
        self._launcher.look(now_s)
        if self._has_hope and not self._launcher.has_hope and not self._closed:
            self._has_hope = False
            self._found.append(DevicesExpected(()))

    # -- the beginning --------------------------------------------------------------
    def wait_for_nodes(self, count: int, patience_s: float) -> tuple[Device, ...]:
        """Wait until so many nodes have joined; return their devices.

        Raises
        ------
        ConfigError
            A node cannot take part, or none came.
        """
        deadline_s = time.monotonic() + patience_s
        kept: list[Happening] = []
        while self._joined_nodes < count and time.monotonic() < deadline_s and self._has_hope:
            kept += self.poll(0.2)
            if self._unfit:
                raise ConfigError(self._unfit[0])
        self._found = kept + self._found
        if not self._joined_nodes:
            raise ConfigError(
                f"no node of the cluster has joined within {patience_s:.0f} s; "
                f"{self._launcher.where_to_look()}"
            )
        if self._joined_nodes < count:
            self._say_once(f"{self._joined_nodes} of {count} nodes have joined; going on with them")
        return tuple(device for node in self._nodes.values() for device in node.devices.values())

    @property
    def _joined_nodes(self) -> int:
        return sum(node.has_joined for node in self._nodes.values())

    # -- the end --------------------------------------------------------------------
    def stop_all(self, *, force: bool = False) -> None:
        """Tell every worker to end."""
        for worker_id in self._where:
            self.stop(worker_id, force=force)
        self._local.stop_all(force=force)

    def stop_listening(self) -> None:
        """Try no agent again."""
        self._closed = True
        for node in self._nodes.values():
            node.is_given_up = True

    def close(
        self, on_end: Callable[[WorkerGone], None], patience_s: float = 2 * GRACE_S + 1.0
    ) -> list[str]:
        """End every worker, every agent and Dask; return what could not be ended."""
        self.stop_all()
        deadline_s = time.monotonic() + patience_s
        while self._where and time.monotonic() < deadline_s:
            for happening in self.poll(0.1):
                if isinstance(happening, WorkerGone):
                    on_end(happening)
        self.stop_listening()
        stuck = [f"{worker} (node {node.name})" for worker, node in self._where.items()]
        for node in self._nodes.values():
            node.tell("end", {})
        self.commands.cancel()
        self._resources.close()
        return stuck + self._local.close(on_end)


def environment_for_nodes() -> dict[str, str]:
    """Return the variables of ours that hold on every node."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GPUPOOL_") and name not in _OWN_VARIABLES
    }
