"""The seam to machines: what starts worker processes on their devices and moves frames.

Nothing above :class:`Host` knows where a device is or what a process is. This machine is a
:class:`~snakemake_executor_gpupool.hosts.local.LocalHost`; several are a
:class:`~snakemake_executor_gpupool.hosts.cluster.host.ClusterHost`, each with a local host of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.requests import ToolRef

#: Seconds that a worker gets to end before SIGTERM, and again before SIGKILL.
GRACE_S = 3.0


@dataclass(frozen=True)
class FrameArrived:
    """A worker sent a frame."""

    worker_id: str
    frame: Frame


@dataclass(frozen=True)
class WorkerForked:
    """A process is there whose number was not known when it was started."""

    worker_id: str
    pid: int


@dataclass(frozen=True)
class WorkerGone:
    """A process has ended, and the device memory that it held is free."""

    worker_id: str
    reason: str
    expected: bool
    #: It ended because its machine left: nothing that it computed was the cause.
    blameless: bool = False
    #: Its exit code, negative for a signal; None: unknown, or it was ended against its will.
    exit_code: int | None = None


@dataclass(frozen=True)
class DevicesJoined:
    """Devices are there that were not there before.

    Attributes
    ----------
    ends_at_s
        When their machine is no longer ours, on the clock of ``time.monotonic``.
    """

    devices: tuple[Device, ...]
    ends_at_s: float = math.inf


@dataclass(frozen=True)
class DevicesLeft:
    """Devices have left, or are about to leave: nothing new may be placed on them.

    Attributes
    ----------
    at_once
        Their machine was told to end: it may be gone before what is in flight is finished.
    """

    names: tuple[str, ...]
    why: str
    at_once: bool = False


@dataclass(frozen=True)
class DevicesExpected:
    """All devices that may join later; the tuple is a sample of each kind."""

    devices: tuple[Device, ...]


HostEvent = FrameArrived | WorkerForked | WorkerGone | DevicesJoined | DevicesLeft | DevicesExpected


@dataclass
class Carried:
    """How much of items and results came from other machines.

    Attributes
    ----------
    in_messages
        Bytes that came in messages, through this process.
    in_files
        Bytes that stayed on the file system that the machines share.
    """

    in_messages: int = 0
    in_files: int = 0

    def add(self, blobs: Sequence[Blob]) -> None:
        """Count the blobs of a frame."""
        for blob in blobs:
            if isinstance(blob, SpoolFile):
                self.in_files += blob.size_bytes
            else:
                self.in_messages += len(blob)


class Host(Protocol):
    """What the pool knows of machines.

    Only the run loop's thread calls it, except for :meth:`wake`, which any thread may call.
    """

    carried: Carried

    def wake(self) -> None:
        """Make a waiting :meth:`poll` return; callable from any thread and signal handler."""

    def pids(self) -> list[int]:
        """Return the ids of all worker processes on the coordinator's machine."""

    def believes(self, worker_id: str) -> bool:
        """Return whether a worker's frames still count: it has not broken the protocol."""

    def reject(self, worker_id: str, why: str) -> None:
        """End a worker that broke the protocol, and ignore what it still sends."""

    def watch(self, group: int, mark: str = "") -> None:
        """Have a process group of this machine killed if the coordinator is killed.

        ``mark``: the ``GPUPOOL_PROCESS`` of further processes, to be killed then and at the
        group's end; empty: there are none.
        """

    def forget(self, group: int) -> None:
        """Note that a watched process group has ended."""

    def start(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        node: str | None = None,
        *,
        is_ahead: bool = False,
    ) -> int | None:
        """Start a process where its devices are, else on ``node``, else anywhere.

        A start that fails is reported by :meth:`poll` as :class:`WorkerGone`. ``is_ahead``: there
        is no job for it yet, and it notes what it sees.

        Returns
        -------
        int or None
            Its process id if it runs on this machine, and is known; else None.
        """

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Queue a frame for the next :meth:`flush`; one for a worker that has ended is dropped."""

    def flush(self) -> None:
        """Hand queued frames to the operating system. Never blocks."""

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        """Ask a worker to end, and escalate to SIGTERM and SIGKILL until it does.

        Parameters
        ----------
        force
            Start with SIGKILL.
        complaint
            Why it is ended against its will; empty: its end is expected.
        """

    def poll(self, timeout_s: float) -> list[HostEvent]:
        """Wait until something happens, for ``timeout_s`` at most; return what happened.

        Frames of a worker come in the order in which it sent them, and none after its end, which
        is reported once.
        """

    def stop_all(self, *, force: bool = False) -> None:
        """Ask every worker to end; ``force``: kill it."""

    def close(self, on_end: Callable[[WorkerGone], None]) -> list[str]:
        """End every worker; return the names of those that could not be ended in time.

        ``on_end`` is called for each that has ended.
        """

    def wants(self, demand: Demand) -> None:
        """Note what the pool could use: a host that can get more machines follows it."""
