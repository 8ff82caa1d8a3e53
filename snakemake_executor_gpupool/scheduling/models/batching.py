"""Cuts micro-batches, sends them to workers, and takes their results. Pure decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.effects import Outbox, RunBatch, RunMerged
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, MergedStage
from snakemake_executor_gpupool.scheduling.models.charging import (
    Charging,
    is_of_one_stage,
    parts_of,
    tried_again,
    work_of,
)
from snakemake_executor_gpupool.scheduling.models.failures import Failures, blamed, oversize_error
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.model_messages import BatchDone


class Batching:
    """Which items go to which worker, and when; what their results say of the model."""

    def __init__(
        self,
        allocator: Allocator,
        lifecycle: WorkerLifecycle,
        failures: Failures,
        jobs: JobTable,
        charging: Charging,
        outbox: Outbox,
        blame_tracker: BlameTracker,
        outlook: Outlook,
    ) -> None:
        self._allocator = allocator
        self._lifecycle = lifecycle
        self._failures = failures
        self._jobs = jobs
        self._charging = charging
        self._outbox = outbox
        self._blame_tracker = blame_tracker
        self._outlook = outlook
        self._batches = 0
        #: How long an item of a merged request may take to compute.
        self.item_limit_s: Callable[[Model, Sequence[MergedStage], int], float]
        self.item_limit_s = lambda model, stages, requests: math.inf
        #: Has merged requests that are about to be sent end after their first stage, if that is
        #: better; says whether the next one's model is to be loaded then.
        self.shorten: Callable[[ModelWorker, Sequence[MergedRequest], float], bool]
        self.shorten = lambda worker, requests, now_s: False

    # -- to workers ----------------------------------------------------------------
    def hand_out(self, model: Model, workers: Iterable[ModelWorker], now_s: float) -> None:
        """Give a model's work to those of these workers that should have some.

        Every free worker gets a micro-batch; then those that will soon have finished theirs
        get a second one beforehand.
        """
        ready = [worker for worker in workers if worker.is_feedable and not worker.is_provisional]
        for worker in ready:
            if not worker.in_flight and not self._is_turn_over(worker, now_s):
                self._send_batch(worker, now_s)
        if not model.info.persistent:
            return
        most_in_flight = model.most_in_flight_for_another()
        for worker in ready:
            ahead = len(worker.in_flight) == 1 and worker.in_flight[0].cost < most_in_flight
            if not ahead or self._has_suspect(worker) or comes_sooner(worker, now_s):
                continue
            if not self._is_turn_over(worker, now_s):
                self._send_batch(worker, now_s)
                most_in_flight = model.most_in_flight_for_another()

    def _has_suspect(self, worker: ModelWorker) -> bool:
        """Whether a worker is tried with an item that others died with: nothing goes behind it."""
        is_suspect = self._blame_tracker.is_suspect
        return self._blame_tracker.has_suspects and any(
            is_suspect(item) for batch in worker.in_flight for item in batch.items
        )

    def _is_turn_over(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether a worker should stop here, although there is work, for somebody else's."""
        load_s = (worker.model.load_s or 0.0) * self._outlook.paid_loads(worker.model)
        return self._allocator.wants_yield(
            worker.worker_id, now_s, since_s=worker.ready_s, load_s=load_s
        )

    def _send_batch(self, worker: ModelWorker, now_s: float) -> None:
        items = self._first_look(worker.model) or self._next_batch(worker)
        if not items:
            return
        if self._comes_too_late(worker, items, now_s):
            self._failures.requeue(worker.model, items)
            self._lifecycle.devices_left([device.name for device in worker.devices], now_s)
            return
        if worker.model.quick.most_tokens:
            worker.model.quick.saw([item.payload for item in items])
        merged = self._merged(worker, items, now_s) if worker.model.is_chain else None
        self._batches += 1
        batch = Batch(self._batches, items, now_s)
        worker.in_flight.append(batch)
        self._lifecycle.busy(worker, now_s)
        self._jobs.handed_out(items)
        for part in parts_of(worker, items):
            part.tries += 1
        self._note_sent(worker, batch)
        if merged is not None:
            self._outbox.put(RunMerged(worker.worker_id, batch.batch_id, *merged))
            return
        params = worker.model.params_of_group[items[0].group]
        self._outbox.put(RunBatch(worker.worker_id, batch.batch_id, params, items))

    def _merged(
        self, worker: ModelWorker, items: Sequence[WorkItem], now_s: float
    ) -> tuple[list[MergedRequest], float | None, bool]:
        """Settle how far merged requests go.

        Return them, how long an item of theirs may take, and whether to load the next model then.
        """
        model = worker.model
        requests = [item for item in items if isinstance(item, MergedRequest)]
        there = len(items) + len(model.queue)
        limit_s = self.item_limit_s(model, requests[0].stages, there)
        loads_next = self.shorten(worker, requests, now_s)
        return requests, limit_s if limit_s < math.inf else None, loads_next

    def _note_sent(self, worker: ModelWorker, batch: Batch) -> None:
        items = batch.items
        # All items that only one job has share one tuple.
        waiting = dict.fromkeys([item.waiters for item in items])
        self._outbox.note(
            "batch_sent",
            batch=batch.batch_id,
            worker=worker.worker_id,
            items=len(parts_of(worker, items)) if is_of_one_stage(batch) else len(items),
            jobs=sorted({job_id for waiters in waiting for job_id in waiters}),
            tokens=sum(batch.tokens),
            padded_tokens=worker.model.batch_tokens(batch),
            longest_tokens=max(batch.tokens),
        )

    def _first_look(self, model: Model) -> list[WorkItem]:
        """Return a model's very first batch: the job that is done soonest.

        So there are outputs before the costliest items are done, and a speed to plan by. Merged
        requests are all short, and while the process for all loads a model nothing goes on.
        """
        is_going_on = model.items_done or model.in_flight or model.suspects or model.oversized
        if model.is_chain or is_going_on:
            return []
        items = self._jobs.soonest_done(set(model.queue))
        if not items or not model.fits_one_batch(items):
            return []
        model.queue.remove(items)
        return items

    def _next_batch(self, worker: ModelWorker) -> list[WorkItem]:
        items, unwanted = worker.model.next_batch(worker)
        self._failures.abandon(unwanted)
        return items

    def _comes_too_late(self, worker: ModelWorker, items: list[WorkItem], now_s: float) -> bool:
        """Whether a worker's machine is given back before it would have finished a batch."""
        left_s = self._lifecycle.ends_at_s(worker) - now_s
        if left_s == math.inf:
            return False
        cost = sum(b.cost for b in worker.in_flight) + sum(item.cost for item in items)
        return (worker.model.speed.seconds(cost, len(worker.in_flight) + 1) or 0.0) > left_s

    # -- from workers --------------------------------------------------------------
    def batch_done(
        self, worker: ModelWorker, message: BatchDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has computed its oldest micro-batch: hand its results to who waits for them."""
        model = worker.model
        batch = self.batch_over(worker, message.seconds, now_s, message.peak_mib)
        work = work_of(worker, message.seconds, message.peak_mib, energy_j)
        again = tried_again(worker, message)
        self._charging.batch_done(worker, batch, message, again, work)
        self._jobs.worked(work, len(worker.devices))
        if message.out_of_memory:
            model.shrink_budget(batch)
            self._outbox.note("out_of_memory", worker=worker.worker_id, budget=model.budget_tokens)
        model.quick.saw(message.results)
        self._settle(worker, batch, message, again)
        broken = [error for error in message.errors.values() if error.is_of_contract]
        if broken:
            # No item is to blame, and no other one with these params would do better.
            self._failures.give_up_group(model, batch.items[0].group, broken[0])
        if not model.info.persistent:
            self._lifecycle.stop(worker, "one-shot tool")

    def batch_over(
        self, worker: ModelWorker, seconds: float, now_s: float, peak_mib: int | None
    ) -> Batch:
        """Take a worker's oldest micro-batch, and learn from the time and memory that it took."""
        model, batch = worker.model, worker.in_flight.popleft()
        if worker.in_flight:
            worker.in_flight[0].sent_s = now_s
        if not is_of_one_stage(batch):  # all stages take longer
            model.speed.learn(batch.cost, seconds, len(batch.items))
        tokens = model.batch_tokens(batch)
        model.memory = model.memory.computed(peak_mib, tokens)
        model.quick.took(tokens, model.budget_tokens or 1, seconds)
        return batch

    def _settle(
        self, worker: ModelWorker, batch: Batch, message: BatchDone, again: Collection[int]
    ) -> None:
        model, items = worker.model, batch.items
        for item in items if self._blame_tracker.has_suspects else ():
            self._blame_tracker.exonerate(item)
        done = items
        if message.errors:
            done = [item for place, item in enumerate(items) if place not in message.errors]
        for item in done:
            item.batch_id = batch.batch_id
        model.items_done += len(items) - len(again)
        self._jobs.items_done(done, message.results, worker.worker_id, worker.node)
        for position, error in message.errors.items():
            item = items[position]
            if position in again:
                model.oversized.append(item)
                continue
            is_oversized = position in message.out_of_memory
            cause = oversize_error(error, worker) if is_oversized else error
            where = blamed(model, cause) if cause.is_of_contract else ""
            self._jobs.item_failed(item, cause, where)


def comes_sooner(worker: ModelWorker, now_s: float) -> bool:
    """Tell whether another worker of a model is ready before a busy one can begin what waits."""
    model = worker.model
    coming = [w for w in model.workers.values() if w.is_coming and not w.is_feedable]
    if not coming or model.load_s is None:
        return False
    free_in_s = model.free_in_s(worker, now_s)
    return any(model.free_in_s(other, now_s) < free_in_s for other in coming)
