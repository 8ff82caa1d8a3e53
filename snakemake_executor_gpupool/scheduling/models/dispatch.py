"""Gets models onto devices and micro-batches to workers. Pure decisions.

What one turn does, read downwards::

    feed(model):  scaling     ask for workers while another one pays
                              wait a moment if the first jobs' inputs are still coming in
                  batching    give every free worker a micro-batch, then a second one beforehand
                  lifecycle   let workers without work rest, where an eviction may take them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.job_state import JobState, explain
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.models.ahead import LoadAhead
from snakemake_executor_gpupool.scheduling.models.arriving import ArrivingJobs
from snakemake_executor_gpupool.scheduling.models.batching import Batching
from snakemake_executor_gpupool.scheduling.models.charging import Charging
from snakemake_executor_gpupool.scheduling.models.due import DueModels
from snakemake_executor_gpupool.scheduling.models.failures import Failures, blamed
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.scheduling.models.keeping import KeptWorkers
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.models.overdue import Overdue, OverdueWorkers
from snakemake_executor_gpupool.scheduling.models.provisional import Provisional
from snakemake_executor_gpupool.scheduling.models.scaling import WorkerScaling
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.models.window import BatchWindow
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.scheduling.results import MAX_KEPT, ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.described import INPUT, WorkerError
from snakemake_executor_gpupool.wire.model_messages import BatchDone
from snakemake_executor_gpupool.wire.requests import Request

#: Within this time it is looked who may have a device that has become idle.
LOOK_SOON_S = 0.1


@dataclass(frozen=True)
class DispatchConfig:
    """What a user may tune.

    Attributes
    ----------
    batch_window_s
        How long a model without work waits for the inputs still being read.
    idle
        After how long without work a worker is ended; by default at the end of the run.
    batch_limit_factor
        How many times its expected time a micro-batch may take before it counts as hung,
        if that is more than its tool's ``batch_limit_s``.
    load_limit_s
        How long starting, loading or moving a model may take.
    results_kept
        How many results are kept at most for items yet to come.
    """

    batch_window_s: float = 0.2
    idle: IdleTime = field(default_factory=IdleTime)
    batch_limit_factor: float = 20.0
    load_limit_s: float = 1800.0
    results_kept: int = MAX_KEPT


class Dispatch:
    """All models: what is done for each when something about it has changed.

    Attributes
    ----------
    models
        By everything that makes them different.
    lifecycle, scaling, failures, charging, batching
        Who does it.
    """

    def __init__(
        self,
        allocator: Allocator,
        models: ModelTable,
        jobs: JobTable,
        ledger: ResultLedger,
        outbox: Outbox,
        events: DomainEvents,
        blame_tracker: BlameTracker,
        config: DispatchConfig,
        outlook: Outlook,
    ) -> None:
        self._jobs = jobs
        self._allocator = allocator
        self._outlook = outlook
        self._blame_tracker = blame_tracker
        self._due = DueModels(config.batch_window_s, blame_tracker)
        self._window = BatchWindow(config.batch_window_s, outlook)
        limits = config.batch_limit_factor, config.load_limit_s
        self._overdue = OverdueWorkers(config.idle, *limits, jobs, outlook)
        self.models = models
        self.lifecycle = WorkerLifecycle(allocator, outbox, events, blame_tracker)
        self.provisional = Provisional(self.lifecycle, allocator, outbox, events)
        self._keeping = KeptWorkers(allocator, self.lifecycle, outlook, self._due)
        self._arriving = arriving = ArrivingJobs(outlook)
        who = self.lifecycle, blame_tracker, outlook, arriving
        self.scaling = WorkerScaling(allocator, models, *who)
        self.failures = Failures(self.lifecycle, jobs, ledger, outbox, events, blame_tracker)
        self.ahead = LoadAhead(allocator, models, self.lifecycle, outlook, blame_tracker, arriving)
        self.charging = Charging(jobs, outbox)
        self.batching = Batching(
            allocator,
            self.lifecycle,
            self.failures,
            jobs,
            self.charging,
            outbox,
            blame_tracker,
            outlook,
        )

    def forget(self, model: Model) -> None:
        """Forget a model that is about to be forgotten."""
        self._due.forget(model)
        self._arriving.forget(model)
        self.scaling.limited.pop(model.key, None)

    def owns(self, worker_id: str) -> bool:
        """Tell whether a process holds, or is to hold, a model."""
        return worker_id in self.lifecycle.workers

    def worker(self, worker_id: str) -> ModelWorker:
        """Return a model's worker."""
        return self.lifecycle.workers[worker_id]

    @property
    def counts(self) -> Counter[str]:
        """How many loads, evictions, offloads and crashes there were."""
        return self.lifecycle.counts

    # -- one turn ------------------------------------------------------------------
    def add(self, model: Model, items: list[WorkItem], now_s: float) -> None:
        """Queue new items of a model."""
        if not model.waiting and not model.in_flight:
            model.window_opened_s = now_s
        if model.broken:
            for item in items:
                if item.group in model.broken:
                    error = model.broken[item.group]
                    self._jobs.item_failed(item, error, blamed(model, error))
            items = [item for item in items if not item.is_done]
        model.push(items)
        self.feed(model, now_s)

    def expect(self, request: Request, now_s: float) -> None:
        """A job is about to be read."""
        self._arriving.job_came(now_s)
        self._keeping.expect(request, now_s)

    def handing_over(self, *, goes_on: bool, now_s: float) -> None:
        """A frontend begins to hand over many jobs, or has handed over all of them."""
        for model in self._arriving.handing_over(goes_on=goes_on, now_s=now_s):
            self.feed(model, now_s)

    def await_model(self, job: JobState, model: Model, now_s: float) -> None:
        """Have a model loaded for a job that wants nothing else."""
        self._jobs.go_on(job)
        if model.error is None and not model.info.persistent:
            error = WorkerError(f"{model.tool.ref} is not kept loaded (persistent = False)", INPUT)
            self._jobs.fail(job, explain(job, error), error)
            return
        model.awaited_by.append(job.request.job_id)
        self.feed(model, now_s)

    def _report_loaded(self, model: Model) -> None:
        """Tell those that wait for nothing but the model: it is loaded, or cannot be."""
        is_there = any(worker.is_feedable for worker in model.alive)
        if model.error is None and not is_there:
            return
        for job in filter(None, map(self._jobs.get, model.awaited_by)):
            if model.error is None:
                self._jobs.succeed(job)
            else:
                self._jobs.fail(job, explain(job, model.error, "the model"), model.error)
        model.awaited_by.clear()

    def drop(self, model: Model, items: Iterable[WorkItem], now_s: float) -> None:
        """Forget those of the items that wait for a model: nobody waits for them."""
        waiting = [item for item in dict.fromkeys(items) if item in model.queue]
        if waiting:
            model.queue.remove(waiting)
            self.failures.abandon(sorted(waiting, key=lambda item: item.order))
            self.feed(model, now_s)

    def feed(self, model: Model, now_s: float) -> None:
        """Do for one model what can be done now."""
        self._feed(model, now_s)
        self._due.watch(model, now_s)

    def _feed(self, model: Model, now_s: float) -> None:
        if model.awaited_by:
            self._report_loaded(model)
        if model.error is not None:
            self.failures.fail_waiting(model, model.error)
            self.failures.stop_unused(model, now_s)
            return
        model.wake_resting(now_s)
        if model.waiting:
            self.provisional.promote(model, now_s)
        self.scaling.adjust(model, now_s)
        if model.error is not None:
            return  # refused just now
        alive = model.alive
        if not self._window.is_open(model, now_s):
            self.batching.hand_out(model, alive, now_s)
        elif model.waiting:
            return
        self._rest(model, alive, now_s)

    def _feed_one(self, worker: ModelWorker, now_s: float) -> None:
        """Do for one worker what can be done, now that nothing else has changed for its model.

        With a thousand workers, looking at all of them after every batch would take longer
        than the batch.
        """
        model = worker.model
        if model.error is not None or model.resting or model.window_opened_s is not None:
            self.feed(model, now_s)
            return
        if len(model.workers) < self.scaling.capacity(model) or model.oversized:
            self.scaling.adjust(model, now_s)
        if worker.stage is not Stage.STOPPING and model.error is None:
            self.batching.hand_out(model, [worker], now_s)
            self._rest(model, [worker], now_s)

    def _rest(self, model: Model, workers: Sequence[ModelWorker], now_s: float) -> None:
        """Let workers without work rest, but for those that will have some in a moment."""
        workers = self._keeping.not_kept(model, workers, now_s)
        idle = len(self.lifecycle.idle_on_gpus)
        self.lifecycle.rest(model, workers, now_s)
        if len(self.lifecycle.idle_on_gpus) > idle and self.scaling.limited:
            for other in self.scaling.limited.values():
                self._due.keeps(other, now_s + LOOK_SOON_S)
            self.ahead.leave_to_ready(now_s + LOOK_SOON_S)
            self.scaling.limited.clear()

    def feed_all(self, now_s: float) -> None:
        """Do for every model what can be done now, unless there is nothing to do."""
        is_full = self._is_full()
        for model in self.models.values():
            if is_at_rest(model) or (is_full and self._only_waits(model)):
                continue
            if not self.scaling.holds(model, now_s):
                self.feed(model, now_s)

    def _is_full(self) -> bool:
        """Whether there is no GPU that anybody could have now who waits for one."""
        return not self.lifecycle.idle_on_gpus and not self.ahead.free_gpus()

    def _only_waits(self, model: Model) -> bool:
        """Whether a model waits for its first device, as others do, and can do nothing else."""
        if len(model.workers) != 1 or not self._allocator.is_wanted_by_others(model.key):
            return False
        (worker,) = model.workers.values()
        more = model.suspects or model.oversized or model.resting or model.awaited_by
        return worker.is_in_line and not worker.has_loaded and model.error is None and not more

    # -- what has happened ---------------------------------------------------------
    def batch_done(
        self, worker_id: str, message: BatchDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has computed its oldest micro-batch."""
        worker = self.worker(worker_id)
        self.batching.batch_done(worker, message, now_s, energy_j)
        if message.errors:
            self.feed(worker.model, now_s)
        else:
            self._feed_one(worker, now_s)

    def chains_done(self, worker_id: str, now_s: float, peak_mib: int | None = None) -> None:
        """A worker has answered all stages of its oldest dispatch of merged runs."""
        worker = self.worker(worker_id)
        batch = self.batching.batch_over(worker, worker.in_flight[0].seconds, now_s, peak_mib)
        worker.model.items_done += len(batch.items)
        self.charging.note_batch(worker, batch, batch.work)
        self.feed(worker.model, now_s)

    def load_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """A model cannot be loaded: jobs that need it fail, all others go on.

        Where there was no such job yet, nothing follows from it: it may be had once there is one.
        """
        worker = self.worker(worker_id)
        self.lifecycle.stop(worker, "loading failed")
        if worker.is_provisional:
            self.failures.bar_ahead(worker.model, error.message)
            self.feed(worker.model, now_s)
        else:
            self.failures.give_up_model(worker.model, error, now_s)

    def refused(self, model_key: Hashable, now_s: float) -> None:
        """No device will ever do for a model: jobs that need it fail."""
        model = self.models[model_key]
        if model.error is not None:
            self.failures.give_up_model(model, model.error, now_s)

    def settled(self, worker_id: str, now_s: float) -> None:
        """A worker has its model on its devices, or has left them."""
        if self.owns(worker_id):
            self.feed(self.worker(worker_id).model, now_s)

    def died(self, worker_id: str, reason: str, now_s: float, *, blameless: bool = False) -> None:
        """A process is gone and what it held is free."""
        worker, crashed = self.lifecycle.remove(worker_id, reason)
        self.charging.lose(worker, now_s)
        if crashed and worker.is_provisional:
            self.failures.bar_ahead(worker.model, reason)
        elif crashed and not blameless:
            self.failures.blame(worker, reason, now_s)
        self.failures.take_back(worker)
        self.lifecycle.release(worker, now_s)
        self.feed(worker.model, now_s)

    def book_lost(self, now_s: float) -> None:
        """The run is over: what workers were still at has come to nothing."""
        for worker in self.lifecycle.workers.values():
            self.charging.lose(worker, now_s)
            worker.in_flight.clear()

    # -- time ------------------------------------------------------------------------
    def tick(self, now_s: float) -> None:
        """Look at all models and workers: which are idle, which hang, what would now pay."""
        for worker in list(self.lifecycle.workers.values()):
            overdue = self._overdue.why(worker, now_s)
            if overdue is Overdue.HANGS:
                worker.hung = True
            elif overdue is Overdue.IDLE:
                worker.model.is_barred_ahead |= worker.is_ahead
            if overdue is not None:
                is_forced = overdue is Overdue.HANGS
                self.lifecycle.stop(worker, overdue.value, force=is_forced)
        self._due.all_looked_at(now_s)
        self.feed_all(now_s)

    def wake(self, now_s: float) -> None:
        """Act on what is due: windows that end, suspects to be tried again."""
        for model in self._due.take(now_s):
            is_at_work = model.waiting and not model.resting
            if is_at_work and self._window.only_gathers(model, now_s):
                self._due.watch(model, now_s)
            else:
                self.feed(model, now_s)

    def next_wake_s(self, now_s: float) -> float:
        """Return when time alone may next change something, at most a second away."""
        return self._due.next_wake_s(now_s)


def is_at_rest(model: Model) -> bool:
    """Tell whether a model has no work, and each of its workers, if any, is known to idle."""
    has_work = model.waiting or model.resting or model.oversized or model.awaited_by
    if has_work or model.error is not None or model.window_opened_s is not None:
        return False
    workers = model.workers.values()
    return all(w.idle_since_s is not None or w.stage is Stage.STOPPING for w in workers)
