"""The pool's decisions: what happened goes in, what to do comes out.

No threads, clocks, files or locks: the run loop calls one method for each thing that
happened, with the time, and carries out the effects. The same sequence of calls gives
the same sequence of effects, which is what makes eviction, balance and faults testable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.ahead_answers import AheadAnswers
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.scheduling.domain_events import (
    DomainEvents,
    JobComputed,
    JobHasRoom,
    LeaseDecided,
    MergeEnded,
    ModelRefused,
    WorkerSettled,
    WorkerStarted,
)
from snakemake_executor_gpupool.scheduling.effects import Outbox, StoreTrouble
from snakemake_executor_gpupool.scheduling.file_answers import FileAnswers
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.scheduling.intake import Intake
from snakemake_executor_gpupool.scheduling.job_state import JobState
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest, Leases
from snakemake_executor_gpupool.scheduling.leaving import LeavingMachines
from snakemake_executor_gpupool.scheduling.merging.by_stage import ByStage
from snakemake_executor_gpupool.scheduling.merging.choice import MergeChoice
from snakemake_executor_gpupool.scheduling.merging.run import MergedRuns
from snakemake_executor_gpupool.scheduling.merging.select import MergeSelection
from snakemake_executor_gpupool.scheduling.model_answers import ModelAnswers
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch, DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.foretelling import Foretelling
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.notes import note_imported, note_submitted
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.scheduling.results import ResultLedger
from snakemake_executor_gpupool.scheduling.retirement import Retirement
from snakemake_executor_gpupool.wire.bounds import shortened
from snakemake_executor_gpupool.wire.described import ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.messages import ItemsRead, ToolImported
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: All models, workers and tools are looked at not more often; those for which something is due, in
#: between.
LOOK_AT_ALL_S = 0.5


class Scheduler:
    """Jobs in, effects out.

    Parameters
    ----------
    allocator
        Decides who holds which device.
    config
        Windows, timeouts and limits.
    file_workers
        How many processes may read and write for one tool, on each machine.
    figures
        What earlier runs measured, by model and kind of device.
    processors
        How many processes can compute at the same time; 0: any number.
    """

    def __init__(
        self,
        allocator: Allocator,
        config: DispatchConfig | None = None,
        file_workers: int = 1,
        figures: Mapping[str, Figures] | None = None,
        processors: int = 0,
    ) -> None:
        config = config or DispatchConfig()
        self.outbox = Outbox()
        self.ledger = ResultLedger(keep_most=config.results_kept)
        self._events = DomainEvents()
        devices = DeviceRequests(allocator)
        models = ModelTable(devices, figures or {})
        self.outlook = Outlook(models)
        models.on_removed = self._model_removed
        allocator.foresight = self.outlook
        self.jobs = JobTable(self.ledger, self.outbox, self._events, self.outlook)
        self._blame_tracker = blame_tracker = BlameTracker()
        self.files = FileScheduler(self.jobs, self.outbox, blame_tracker, allocator, file_workers)
        self.dispatch = Dispatch(
            allocator,
            models,
            self.jobs,
            self.ledger,
            self.outbox,
            self._events,
            blame_tracker,
            config,
            self.outlook,
        )
        capacity = self.dispatch.scaling.capacity
        self._choice = choice = MergeChoice(
            models, self.outlook, self.outbox, capacity, processors, file_workers
        )
        self.dispatch.batching.item_limit_s = choice.item_limit_s
        selection = MergeSelection(allocator, devices, models, self.dispatch.scaling, choice)
        self.by_stage = by_stage = ByStage(self.jobs, models)
        parts_of_pool = self.dispatch, self.files, self.jobs, self.ledger, self.outbox
        self.merges = MergedRuns(selection, choice, by_stage, *parts_of_pool)
        self.dispatch.batching.shorten = self.merges.shorten
        self.intake = Intake(
            self.jobs, self.ledger, self.dispatch, self.merges, self.outbox, self.outlook
        )
        at_files = self.jobs, self.files, self.intake, self.merges, self.ledger, self.outbox
        self.answers = FileAnswers(*at_files, self._settle)
        self._foretelling = Foretelling(self.files, models, self.outlook, self.dispatch.ahead)
        self.ahead = AheadAnswers(self.files, self.dispatch, self._foretelling, self._settle)
        self.model_answers = ModelAnswers(self.dispatch, self.merges, self._settle)
        self.leases = Leases(allocator, self.dispatch.lifecycle, self.outbox)
        self.leaving = LeavingMachines(self.dispatch, self.files, self.outbox)
        parts = self.jobs, self.files, self.dispatch, self.merges
        self.retirement = Retirement(*parts, self.ledger, self.outbox)
        self._allocator = allocator
        self._is_looking = False
        self._looked_s = -math.inf

    def _settle(self, now_s: float) -> None:
        """React to what the parts have appended, the last step of each external event."""
        for event in self._events.drain():
            match event:
                case JobComputed(job_id=job_id):
                    self._computed(self.jobs[job_id], now_s)
                case JobHasRoom(job_id=job_id):
                    self._open_more(job_id, now_s)
                case WorkerSettled(worker_id=worker_id):
                    self.dispatch.settled(worker_id, now_s)
                case WorkerStarted(tool=tool, node=node):
                    self.files.foresee(tool, node, now_s)
                case ModelRefused(model_key=key):
                    self.dispatch.refused(key, now_s)
                case MergeEnded(item=item):
                    self.merges.ended(item, now_s)
                case LeaseDecided(decision=decision):
                    self.leases.decided(decision)
        if not self._is_looking and self.outlook.is_known and not self.jobs.is_winding_down:
            self._is_looking = True
            self._look_ahead(now_s)
            self._is_looking = False
        self.leaving.settle()

    def _look_ahead(self, now_s: float) -> None:
        self.outlook.time_is(now_s)
        most = self.dispatch.ahead.look(now_s)
        self._settle(now_s)
        if most:
            self._foretelling.ask(most, now_s)

    def _model_removed(self, model: Model) -> None:
        self.outlook.forget(model)
        self.dispatch.forget(model)
        self._blame_tracker.forget(model)
        self._choice.forget(model)

    # -- served jobs -----------------------------------------------------------
    def foresee(self, forecast: Forecast, now_s: float, run: str = "") -> None:
        """A frontend knows more, or other things, of the jobs to come."""
        self.outlook.replace(forecast, run)
        self.dispatch.feed_all(now_s)
        self._settle(now_s)

    def run_left(self, run: str, now_s: float) -> None:
        """One of several runs has no job any longer."""
        self.merges.forget_run(run)
        self.foresee(Forecast(), now_s, run)

    def handing_over(self, *, goes_on: bool, now_s: float) -> None:
        """A frontend begins to hand over many jobs, or has handed over all of them."""
        self.dispatch.handing_over(goes_on=goes_on, now_s=now_s)
        self._settle(now_s)

    def submit(self, request: Request, now_s: float) -> None:
        """A served job is ready."""
        job = self.jobs.add(request)
        self.retirement.wanted(request)
        note_submitted(self.outbox, request)
        self.dispatch.expect(request, now_s)
        self.merges.arrived(job, now_s)
        self._settle(now_s)

    def submit_items(
        self,
        request: Request,
        info: ToolInfo,
        message: ItemsRead,
        now_s: float,
        to_come: int = 0,
    ) -> None:
        """A call's items are ready; their results are reported, not written.

        Parameters
        ----------
        to_come
            How many more it has; :meth:`more_items` brings them, each time that it is asked to.
        """
        note_submitted(self.outbox, request)
        job = self.jobs.add(request)
        job.wants_results, job.later.to_come = True, to_come
        tool = self.files.tool(request.tool)
        tool.info = tool.info or info
        self.intake.take(job, tool, message, now_s)
        self._settle(now_s)

    def more_items(self, message: ItemsRead, now_s: float) -> None:
        """The next items of a call are ready."""
        job = self.jobs.get(message.job_id)
        if job is None:  # it has failed meanwhile
            self.ledger.discard(*message.payloads)
        else:
            job.later.to_come -= len(message.keys)
            self.intake.take(job, self.files.tool(job.request.tool), message, now_s)
        self._settle(now_s)

    def process_ready(self, worker_id: str, message: ToolImported, now_s: float) -> None:
        """A process has imported its tool."""
        note_imported(self.outbox, worker_id, message.seconds, message.versions)
        if self.files.owns(worker_id):
            self.files.tool_ready(worker_id, message.info, now_s)
        elif self.dispatch.owns(worker_id):
            self.dispatch.lifecycle.process_ready(worker_id)
        self._settle(now_s)

    def process_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """A process could not import its tool."""
        if self.files.owns(worker_id):
            self.files.tool_failed(worker_id, error, now_s)
        elif self.dispatch.owns(worker_id):
            self.dispatch.load_failed(worker_id, error, now_s)
        self._settle(now_s)

    def _open_more(self, job_id: int, now_s: float) -> None:
        if (job := self.jobs.get(job_id)) is not None:
            self.intake.open_more(job, self.files.tool(job.request.tool), now_s)

    def _computed(self, job: JobState, now_s: float) -> None:
        if job.wants_results:
            self.jobs.succeed(job)
        else:
            self.files.write(job, now_s)

    def store_trouble(self, worker_id: str, kind: str, why: str) -> None:
        """A worker has met something in the store of results that is not as it should be."""
        self.outbox.put(StoreTrouble(worker_id, kind, shortened(why)))

    def unwanted(self, job_id: int, reason: str | None, now_s: float) -> None:
        """Nobody wants a job any longer: it fails; without a reason it is only not begun."""
        if (job := self.jobs.get(job_id)) is not None:
            self.retirement.unwanted(job, reason, now_s)
            self.merges.drop_unwanted(now_s)
        self._settle(now_s)

    def retire(self, tool: ToolRef, now_s: float) -> None:
        """No more jobs of a tool will come."""
        self.retirement.retire(tool, now_s)
        self._settle(now_s)

    # -- workers -------------------------------------------------------------------
    def died(
        self,
        worker_id: str,
        reason: str,
        now_s: float,
        *,
        expected: bool = False,
        blameless: bool = False,
    ) -> None:
        """A process is gone; what it held of a device is free.

        ``expected``: it was asked to end; ``blameless``: its machine went.
        """
        if self.files.owns(worker_id):
            self.files.died(worker_id, reason, now_s, expected=expected or blameless)
        elif self.dispatch.owns(worker_id):
            self.dispatch.died(worker_id, reason, now_s, blameless=blameless)
        self._settle(now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        parts = self.files, self.dispatch, self.retirement
        looks_at_all = now_s - self._looked_s >= LOOK_AT_ALL_S
        if looks_at_all:
            self._looked_s = now_s
        for part in parts:
            (part.tick if looks_at_all else part.wake)(now_s)
        self._settle(now_s)

    def next_wake_s(self, now_s: float) -> float:
        """Return when ``tick`` is next worth a call."""
        return min(
            self.files.next_wake_s(now_s),
            self.dispatch.next_wake_s(now_s),
            self.retirement.next_wake_s(now_s),
        )

    # -- devices -------------------------------------------------------------------
    def devices_claimed(self, holder_id: str, now_s: float) -> None:
        """This run owns the devices that ``ClaimDevices`` asked for."""
        self.dispatch.lifecycle.devices_claimed(holder_id, now_s)
        self._settle(now_s)

    def devices_refused(
        self, holder_id: str, device_name: str, why: str, now_s: float, *, lost: bool = False
    ) -> None:
        """One of the devices that ``ClaimDevices`` asked for is another's, or broken."""
        self.dispatch.lifecycle.devices_refused(holder_id, device_name, why, now_s, lost=lost)
        self._settle(now_s)

    def devices_joined(
        self, devices: Sequence[Device], now_s: float, ends_at_s: float = math.inf
    ) -> None:
        """A machine joins or is back; ``ends_at_s``: until when this run may use it."""
        self.leaving.joined(devices)
        self.dispatch.lifecycle.devices_joined(devices, now_s, ends_at_s)
        self.dispatch.feed_all(now_s)
        self._settle(now_s)

    def devices_left(self, names: Iterable[str], now_s: float, *, at_once: bool = False) -> None:
        """Devices are gone, or will be soon: their workers end once they are idle.

        ``at_once``: their machine was told to end; see :mod:`~.leaving`.
        """
        names = list(names)
        self.dispatch.lifecycle.devices_left(names, now_s)
        if at_once:
            self.leaving.told(names)
        self._settle(now_s)

    def devices_expected(self, devices: Sequence[Device], now_s: float) -> None:
        """These devices, and no others, may yet join."""
        self.dispatch.lifecycle.apply(self._allocator.expect(devices, now_s), now_s)
        self._settle(now_s)

    def given_back(self, device_name: str, now_s: float) -> None:
        """Another process has let go of a device."""
        self.dispatch.lifecycle.given_back(device_name, now_s)
        self._settle(now_s)

    def make_room(self, device_name: str, now_s: float) -> None:
        """Another run waits for a device: end the workers that only idle on it."""
        self.dispatch.ahead.hold_off(now_s)
        self.dispatch.lifecycle.make_room(device_name)

    # -- leases --------------------------------------------------------------------
    def lease(self, request: LeaseRequest, now_s: float) -> None:
        """A job needs devices of its own; ``GrantLease`` or a failed ``Report`` follows."""
        self.leases.request(request, now_s)
        self._settle(now_s)

    def lease_done(self, job_id: int, now_s: float, error: str | None = None) -> None:
        """The leased job has ended; ``error`` says why, if it has failed."""
        if self.leases.done(job_id, now_s, error) and self.dispatch.ahead.free_gpus():
            self.dispatch.feed_all(now_s)
        self._settle(now_s)

    # -- the end ---------------------------------------------------------------------
    def cancel(self, reason: str) -> None:
        """Fail every job in flight, and every one that waits for devices."""
        for job_id in self.jobs.ids():
            job = self.jobs[job_id]
            self.jobs.fail(job, f"{job.request.title}: {reason}")
        self.leases.cancel(reason)

    def wind_down(self, now_s: float) -> None:
        """Start nothing new: what no worker has been given anything of is reported as not started.

        What has begun is finished, all of it.
        """
        self.jobs.is_winding_down = True
        held = self.merges.held_jobs()
        for job in map(self.jobs.__getitem__, self.jobs.ids()):
            if job not in held and not job.has_begun:
                self.jobs.withdraw(job)
        self.merges.drop_unwanted(now_s)
        self.leases.wind_down(now_s)
        self._settle(now_s)

    @property
    def is_quiet(self) -> bool:
        """Whether no served job and no lease is in flight."""
        return not self.jobs and not self.leases
