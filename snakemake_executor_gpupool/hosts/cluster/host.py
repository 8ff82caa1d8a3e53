"""Several machines as one host: every call goes to the agent of the node that it concerns.

::

    run loop ── start, send, stop ──► ClusterHost ──► Node ── endpoint ──► agent ──► LocalHost
             ◄──── events ────── inbox ◄────────────────────────────────┘

Devices are named after their node (``n1/cuda:0``), and a process goes where its devices are. One
that reads and writes files goes to the node that the pool names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.base import GRACE_S, FrameArrived, HostEvent, WorkerGone
from snakemake_executor_gpupool.hosts.cluster.membership import Membership
from snakemake_executor_gpupool.hosts.cluster.messages import (
    End,
    Message,
    Offer,
    ProcessGone,
    SendFrame,
    StartProcess,
    StopProcess,
    ToldToEnd,
    Unfit,
    WorkerFrame,
)
from snakemake_executor_gpupool.hosts.cluster.nodes import Node
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.messages_out import with_latency
from snakemake_executor_gpupool.wire.requests import ToolRef

_OWN_VARIABLES = (
    *("GPUPOOL_SIMULATED", "GPUPOOL_LOCK_DIR", "GPUPOOL_LEASE"),
    *("GPUPOOL_WORKER", "GPUPOOL_PROCESS"),
)


class ClusterHost(Membership):
    """The machines of a cluster, and this one; same parameters as :class:`Membership`."""

    # -- messages from agents ------------------------------------------------------
    def _answered(self, node: Node, answer: Message) -> None:
        match answer:
            case WorkerFrame(worker_id=worker_id, frame=frame):
                if worker_id in node.workers:
                    self.carried.add(frame.blobs)
                    self._events.append(FrameArrived(worker_id, frame))
            case ProcessGone(worker_id=worker_id):
                if node.workers.pop(worker_id, None) is not None:
                    del self._where[worker_id]
                    self._complaints.pop(worker_id, None)
                    self._events.append(
                        WorkerGone(
                            worker_id, answer.reason, answer.is_expected, answer.is_blameless
                        )
                    )
                    self._let_go(node)
            case ToldToEnd(why=why):
                self._told_to_end(node, why)
            case Offer(devices=devices):
                self._offered(node, devices)
            case Unfit(why=why):
                self._refused(node, why)

    # -- as any host ----------------------------------------------------------------
    def wake(self) -> None:
        """Make a waiting :meth:`poll` return; callable from any thread and signal handler."""
        self._local.wake()

    def pids(self) -> list[int]:
        """Return the ids of all worker processes on this machine."""
        return self._local.pids()

    def believes(self, worker_id: str) -> bool:
        """Return whether a worker's frames still count: it has not broken the protocol."""
        return worker_id not in self._complaints and self._local.believes(worker_id)

    def reject(self, worker_id: str, why: str) -> None:
        """End a worker that broke the protocol, and ignore what it still sends."""
        if worker_id in self._where:
            self._complaints[worker_id] = why
            self.stop(worker_id, force=True, complaint=f"broke the protocol ({why})")
        else:
            self._local.reject(worker_id, why)

    def watch(self, group: int, mark: str = "") -> None:
        """Have the reaper kill a process group of this machine if this process is killed."""
        self._local.watch(group, mark)

    def forget(self, group: int) -> None:
        """Note that a watched process group has ended."""
        self._local.forget(group)

    def start(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        node: str | None = None,
        *,
        is_ahead: bool = False,
    ) -> int | None:
        """Start a process where its devices are, else on ``node``, else on any node.

        Returns
        -------
        int or None
            Its process id if it runs on this machine, else None.
        """
        name = devices[0].host if devices else node
        place = self._any_node() if name is None else self._nodes.get(name)
        if place is not None:
            self._where[worker_id] = place
            place.workers[worker_id] = devices
            names = tuple(device.local_name for device in devices)
            place.tell(StartProcess(worker_id, tool, names, is_ahead))
        elif name:
            reason = f"node {name} was lost"
            self._events.append(WorkerGone(worker_id, reason, expected=False, blameless=True))
        else:
            return self._local.start(worker_id, tool, devices, is_ahead=is_ahead)
        return None

    def _any_node(self) -> Node | None:
        """Return the node with the fewest processes that have no device."""
        usable = [node for node in self._nodes.values() if node.is_usable]
        return min(usable, key=lambda node: (node.deviceless, node.name), default=None)

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Queue a frame; one for a worker that has ended is dropped."""
        meta = with_latency(meta, self._begin.latency_wait_s)
        node = self._where.get(worker_id)
        if node is None:
            self._local.send(worker_id, meta, blobs)
            return
        node.tell(SendFrame(worker_id, Frame(dict(meta), list(blobs))))

    def flush(self) -> None:
        """Hand queued frames to the operating system."""
        self._local.flush()

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        """Ask a worker to end, and escalate until it does; see :meth:`.LocalHost.stop`."""
        node = self._where.get(worker_id)
        if node is None:
            self._local.stop(worker_id, force=force, complaint=complaint)
        else:
            node.tell(StopProcess(worker_id, force, complaint))

    def wants(self, demand: Demand) -> None:
        """Pass on what the pool could use: pilots follow the demand."""
        self._launcher.wants(demand, self.commands.pending)

    def poll(self, timeout_s: float) -> list[HostEvent]:
        """Wait until something happens, for ``timeout_s`` at most; return what happened."""
        happened = self._local.poll(0.0 if self._events else timeout_s)
        for act in self._inbox.take():
            act()
        self._look(time.monotonic())
        events, self._events = self._events, []
        return [*happened, *events]

    # -- the beginning --------------------------------------------------------------
    def wait_for_nodes(self, count: int, patience_s: float) -> tuple[Device, ...]:
        """Wait until ``count`` nodes have joined, for ``patience_s`` at most; return their devices.

        Raises
        ------
        ConfigError
            A node cannot take part, or none has joined.
        """
        deadline_s = time.monotonic() + patience_s
        kept: list[HostEvent] = []
        while self._joined_nodes < count and time.monotonic() < deadline_s and self._has_hope:
            kept += self.poll(0.2)
            if self._unfit:
                raise ConfigError(self._unfit[0])
        self._events = kept + self._events
        if not self._joined_nodes:
            raise ConfigError(
                f"no node of the cluster has joined within {patience_s:.0f} s; "
                f"{self._launcher.where_to_look()}"
            )
        if self._joined_nodes < count:
            self._say_once(
                f"{self._joined_nodes} of {count} nodes have joined; the run starts with these"
            )
        return tuple(device for node in self._nodes.values() for device in node.devices.values())

    # -- the end --------------------------------------------------------------------
    def stop_all(self, *, force: bool = False) -> None:
        """Ask every worker to end; ``force``: kill it."""
        for worker_id in self._where:
            self.stop(worker_id, force=force)
        self._local.stop_all(force=force)

    def stop_listening(self) -> None:
        """Reconnect to no agent any more."""
        self._closed = True
        for node in self._nodes.values():
            node.is_given_up = True

    def close(
        self, on_end: Callable[[WorkerGone], None], patience_s: float = 2 * GRACE_S + 1.0
    ) -> list[str]:
        """End every worker, every agent and Dask; return the names of workers that remain."""
        self.stop_all()
        deadline_s = time.monotonic() + patience_s
        while self._where and time.monotonic() < deadline_s:
            for event in self.poll(0.1):
                if isinstance(event, WorkerGone):
                    on_end(event)
        self.stop_listening()
        stuck = [f"{worker} (node {node.name})" for worker, node in self._where.items()]
        for node in self._nodes.values():
            node.tell(End())
        self.commands.cancel()
        self._resources.close()
        return stuck + self._local.close(on_end)


def environment_for_nodes() -> dict[str, str]:
    """Return gpupool's variables that every node should have."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GPUPOOL_") and name not in _OWN_VARIABLES
    }
