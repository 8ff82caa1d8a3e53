"""Everything that decides, behind one method: an event and the time in, effects out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.deliver import Deliverer
from snakemake_executor_gpupool.scheduling.effects import DiscardBlobs, Effect, RejectWorker
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.frames import Frame


@dataclass(frozen=True)
class Setup:
    """What a run's decisions start from.

    Attributes
    ----------
    devices, expected
        The devices of the start, and devices that may be added later.
    figures
        What earlier runs measured, by model and kind of device.
    file_workers
        How many processes may read and write for one tool, on each machine.
    processors
        How many processes can compute at the same time; 0: any number.
    spools
        The only directories whose files a frame may name.
    """

    devices: tuple[Device, ...]
    expected: tuple[Device, ...] = ()
    allow_multiple_per_device: bool = False
    offload_strategy: OffloadStrategy = OffloadStrategy.RESTART
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    file_workers: int = 1
    figures: Mapping[str, Figures] = field(default_factory=dict)
    spools: tuple[str, ...] = ()
    processors: int = 0


class Core:
    """A run's decisions. The same set-up and events, with their times, give the same effects.

    Attributes
    ----------
    allocator, scheduler
        To read figures from; they change by :meth:`take` alone.
    """

    def __init__(self, setup: Setup) -> None:
        self.allocator = Allocator(
            setup.devices,
            allow_multiple_per_device=setup.allow_multiple_per_device,
            offload_strategy=setup.offload_strategy,
        )
        self.allocator.expect(setup.expected, 0.0)
        self.scheduler = Scheduler(
            self.allocator, setup.dispatch, setup.file_workers, setup.figures, setup.processors
        )
        self._deliverer = Deliverer(self.scheduler, setup.spools)

    def take(self, event: ev.Event, now_s: float) -> list[Effect]:
        """Decide what an event leads to; ``now_s`` is never less than that of the one before."""
        refused: list[Effect] = []
        if isinstance(event, ev.FrameReceived):
            try:
                frame = Frame(event.meta, event.blobs)
                self._deliverer.take(event.worker_id, frame, now_s, event.energy_j)
            except ProtocolError as error:
                refused = [RejectWorker(event.worker_id, str(error))]
        else:
            self._take(event, now_s)
        effects = [*self.scheduler.outbox.take(), *refused]
        ledger = self.scheduler.ledger
        if ledger.discarded:
            effects.append(DiscardBlobs(tuple(ledger.discarded)))
            ledger.discarded = []
        return effects

    def _take(self, event: ev.Event, now_s: float) -> None:  # noqa: C901, PLR0912 - one case a kind
        sched = self.scheduler
        match event:
            case ev.TimePassed():
                sched.tick(now_s)
            case ev.JobsForeseen(forecast, run):
                sched.foresee(forecast, now_s, run)
            case ev.HandingOver(goes_on=goes_on):
                sched.handing_over(goes_on=goes_on, now_s=now_s)
            case ev.RunLeft(run=run):
                sched.run_left(run, now_s)
            case ev.FilesRenewed(tool=tool):
                sched.files.renew(tool)
            case ev.JobReady(request=request):
                sched.submit(request, now_s)
            case ev.CallReady(request, info, items, to_come):
                sched.submit_items(request, info, items, now_s, to_come)
            case ev.CallContinued(items=items):
                sched.more_items(items, now_s)
            case ev.ResultsRead(job_id=job_id):
                sched.jobs.take_back(job_id)
            case ev.JobUnwanted(job_id, reason):
                sched.unwanted(job_id, reason, now_s)
            case ev.ToolRetired(tool=tool):
                sched.retire(tool, now_s)
            case ev.LeaseWanted(request=wanted):
                sched.lease(wanted, now_s)
            case ev.LeaseEnded(job_id, error):
                sched.lease_done(job_id, now_s, error)
            case ev.WorkerEnded(worker_id, reason, expected, blameless):
                sched.died(worker_id, reason, now_s, expected=expected, blameless=blameless)
            case ev.DevicesClaimed(holder_id=holder):
                sched.devices_claimed(holder, now_s)
            case ev.DevicesRefused(holder, device, why, lost):
                sched.devices_refused(holder, device, why, now_s, lost=lost)
            case ev.DeviceGivenBack(device=device):
                sched.given_back(device, now_s)
            case ev.RoomWanted(device=device):
                sched.make_room(device, now_s)
            case ev.DevicesAdded(devices, ends_at_s):
                sched.devices_joined(devices, now_s, math.inf if ends_at_s is None else ends_at_s)
            case ev.DevicesRemoved(names, at_once):
                sched.devices_left(names, now_s, at_once=at_once)
            case ev.DevicesForeseen(devices=devices):
                sched.devices_expected(devices, now_s)
            case ev.StoreTroubleReported(kind, why):
                sched.store_trouble("", kind, why)
            case ev.WindDownWanted():
                sched.wind_down(now_s)
            case ev.Cancelled(reason=reason):
                sched.cancel(reason)
