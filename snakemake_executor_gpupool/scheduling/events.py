"""Events that the scheduler takes: all that decisions depend on, as plain values.

The run loop makes one of these of each thing that has happened and hands it to
:class:`~snakemake_executor_gpupool.scheduling.core.Core`, with the time. A run's decisions follow
from them and from its :class:`~snakemake_executor_gpupool.scheduling.core.Setup` alone, which is
why a recorded run can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import Request, ToolRef


@dataclass(frozen=True)
class JobReady:
    """A served job may run."""

    request: Request


@dataclass(frozen=True)
class JobsForeseen:
    """A frontend's graph of jobs has changed; what it foresaw before no longer counts.

    Attributes
    ----------
    run
        Of several runs that one pool serves, whose graph it is; its waves have names of its own.
    """

    forecast: Forecast
    run: str = ""


@dataclass(frozen=True)
class HandingOver:
    """A frontend begins to hand over many jobs that are ready, or has handed over all of them.

    Meanwhile it looks after none that has ended, and so makes none ready. It says so of what it
    foresees for itself; not where it is one of several.
    """

    goes_on: bool


@dataclass(frozen=True)
class CallReady:
    """A call from Python has items; ``info`` is of its tool.

    Attributes
    ----------
    to_come
        How many more items it has, which its caller brings once it is asked for them.
    """

    request: Request
    info: ToolInfo
    items: ItemsRead
    to_come: int = 0


@dataclass(frozen=True)
class CallContinued:
    """A call's caller brings the next of its items."""

    items: ItemsRead


@dataclass(frozen=True)
class ResultsRead:
    """The caller has read its results."""

    job_id: int


@dataclass(frozen=True)
class JobUnwanted:
    """Nobody wants a served job any longer; ``reason`` is what its report says.

    None: if it has begun it is finished, else it is reported as not started.
    """

    job_id: int
    reason: str | None


@dataclass(frozen=True)
class ToolRetired:
    """No more jobs of a tool will come."""

    tool: ToolRef


@dataclass(frozen=True)
class FilesRenewed:
    """Processes that read and write for a tool know others' code that has changed meanwhile."""

    tool: ToolRef


@dataclass(frozen=True)
class RunLeft:
    """None of a run's jobs is in flight, and none will come."""

    run: str


@dataclass(frozen=True)
class LeaseWanted:
    """A job that runs by itself needs devices of its own."""

    request: LeaseRequest


@dataclass(frozen=True)
class LeaseEnded:
    """A job that was leased devices has ended, or no longer wants any; ``error``: it failed."""

    job_id: int
    error: str | None = None


@dataclass(frozen=True)
class FrameReceived:
    """A worker sent a frame, of which nothing is believed yet.

    Attributes
    ----------
    energy_j
        What the driver counted for what it answers, if it is a micro-batch; None: unknown.
    """

    worker_id: str
    meta: dict[str, Any]
    blobs: list[Blob]
    energy_j: float | None = None


@dataclass(frozen=True)
class WorkerEnded:
    """A process is gone. ``expected``: it was asked to end; ``blameless``: its machine went."""

    worker_id: str
    reason: str
    expected: bool = False
    blameless: bool = False


@dataclass(frozen=True)
class DevicesClaimed:
    """What ``ClaimDevices`` asked for is taken against all other processes."""

    holder_id: str


@dataclass(frozen=True)
class DevicesRefused:
    """One of the devices that ``ClaimDevices`` asked for is another's, or broken (``lost``)."""

    holder_id: str
    device: str
    why: str
    lost: bool = False


@dataclass(frozen=True)
class DeviceGivenBack:
    """Another process has let go of a device."""

    device: str


@dataclass(frozen=True)
class RoomWanted:
    """Another run waits for a device that this run holds."""

    device: str


@dataclass(frozen=True)
class DevicesAdded:
    """A machine's devices are there; ``ends_at_s``: until when (None: for ever)."""

    devices: tuple[Device, ...]
    ends_at_s: float | None = None


@dataclass(frozen=True)
class DevicesRemoved:
    """Devices are gone, or about to go; ``at_once``: their machine was told to end."""

    names: tuple[str, ...]
    at_once: bool = False


@dataclass(frozen=True)
class DevicesForeseen:
    """Devices such as these may be added later, and no others."""

    devices: tuple[Device, ...]


@dataclass(frozen=True)
class StoreTroubleReported:
    """A caller has met something in the store of results that is not as it should be."""

    kind: str
    why: str


@dataclass(frozen=True)
class TimePassed:
    """Something may be due."""


@dataclass(frozen=True)
class WindDownWanted:
    """Nothing new is to be started; what has begun is finished."""


@dataclass(frozen=True)
class Cancelled:
    """Every job is to fail."""

    reason: str


Event = (
    JobReady
    | JobsForeseen
    | HandingOver
    | FilesRenewed
    | RunLeft
    | CallReady
    | CallContinued
    | ResultsRead
    | JobUnwanted
    | ToolRetired
    | LeaseWanted
    | LeaseEnded
    | FrameReceived
    | WorkerEnded
    | DevicesClaimed
    | DevicesRefused
    | DeviceGivenBack
    | RoomWanted
    | DevicesAdded
    | DevicesRemoved
    | DevicesForeseen
    | StoreTroubleReported
    | TimePassed
    | WindDownWanted
    | Cancelled
)
