"""What becomes of work whose worker died, and of models that cannot be loaded. Pure decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from snakemake_executor_gpupool.scheduling.blame import MIN_TRIAL_S, BlameTracker
from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents, MergeEnded
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.files.deaths import crash_error
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.described import INPUT, WorkerError

#: An item that ends this many workers while it is alone with them is given up; more where
#: something outside kills (:mod:`~.blame`), as for all such bounds.
MAX_DEATHS_ALONE = 2
#: A model whose workers die this often while loading, one after the other, is given up.
MAX_LOAD_DEATHS = 3
#: Workers of a merged run that may die; its requests go the ordinary way from then on.
MAX_CHAIN_DEATHS = 3
#: Of a model: so many groups of items are known to fail without being tried.
MAX_BROKEN = 1000


class Failures:
    """Finds what is to blame for a death, and fails the jobs whose model cannot be loaded."""

    def __init__(
        self,
        lifecycle: WorkerLifecycle,
        jobs: JobTable,
        ledger: ResultLedger,
        outbox: Outbox,
        events: DomainEvents,
        blame_tracker: BlameTracker,
    ) -> None:
        self._lifecycle = lifecycle
        self._jobs = jobs
        self._ledger = ledger
        self._outbox = outbox
        self._events = events
        self._blame_tracker = blame_tracker

    # -- deaths ----------------------------------------------------------------------
    def blame(self, worker: ModelWorker, reason: str, now_s: float) -> None:
        """A worker has died by no fault of its machine: suspect what it had in flight."""
        if worker.model.is_chain:
            self._blame_chain(worker, reason, now_s)
            return
        if not worker.has_loaded:
            self._blame_loading(worker, reason, now_s)
            return
        # It computes a batch while it sends the results of the one before: either may be to blame.
        begun = [worker.in_flight.popleft() for _ in range(min(len(worker.in_flight), 2))]
        items = [item for batch in begun for item in batch.items]
        self._blame_tracker.died(items, now_s)
        for item in items:
            if self._blame_tracker.is_guilty(item, MAX_DEATHS_ALONE, now_s):
                count = self._blame_tracker.deaths_alone(item)
                message = f"{count} workers died while computing it alone: {reason}"
                self._blame_tracker.forget(item)
                self._jobs.item_failed(item, crash_error(message))
            else:
                worker.model.resting.append((self._blame_tracker.next_try_s(item), item))

    def _blame_chain(self, worker: ModelWorker, reason: str, now_s: float) -> None:
        """Look no further than whether to go on merging: what was in flight is tried apart."""
        worker.model.chain_deaths += 1
        if not worker.has_loaded or worker.model.chain_deaths >= MAX_CHAIN_DEATHS:
            self.give_up_model(worker.model, crash_error(f"its worker died: {reason}"), now_s)

    def _blame_loading(self, worker: ModelWorker, reason: str, now_s: float) -> None:
        model = worker.model
        known_good = model.has_loaded
        self._blame_tracker.died(
            [model], now_s, since_s=worker.since_s, succeeded_before=known_good
        )
        self._lifecycle.withdraw_asking(model, now_s)
        # Whatever this one's trouble was, others serve.
        is_served = any(other.has_loaded for other in model.alive)
        if not is_served and self._blame_tracker.is_guilty(
            model, MAX_LOAD_DEATHS, now_s, least_s=MIN_TRIAL_S
        ):
            error = crash_error(f"its worker died while loading: {reason}")
            self.give_up_model(model, error, now_s)

    def take_back(self, worker: ModelWorker) -> None:
        """Have what a dead worker had in flight computed by others."""
        items = [item for batch in worker.in_flight for item in batch.items]
        worker.in_flight.clear()
        if worker.model.is_chain:
            self._end_merges(items)
        else:
            self.requeue(worker.model, items)

    def requeue(self, model: Model, items: list[WorkItem]) -> None:
        """Let items wait again, except those that nobody waits for any more."""
        model.queue.push(item for item in items if item.waiters)
        self.abandon(item for item in items if not item.waiters)

    def abandon(self, items: Iterable[WorkItem]) -> None:
        """Forget items that nobody waits for any more."""
        for item in items:
            self._blame_tracker.forget(item)
            self._ledger.abandon(item)

    def _end_merges(self, items: Iterable[WorkItem]) -> None:
        for item in items:
            item.waiters = ()
            self._events.append(MergeEnded(item))

    # -- what is given up --------------------------------------------------------------
    def bar_ahead(self, model: Model, why: str) -> None:
        """Load a model only once there is work for it: before, it could not be had.

        That counts for nothing: what it needs may be there by then. If not, the job will say so.
        """
        model.is_barred_ahead = True
        self._outbox.note("ahead_failed", model=model.name, error=why)

    def give_up_model(self, model: Model, error: WorkerError, now_s: float) -> None:
        """Fail all jobs that need a model that cannot be loaded, now and later."""
        model.error = error
        self._blame_tracker.forget(model)
        self._outbox.note("model_failed", model=model.name, error=error.message)
        self.fail_waiting(model, error)
        self._lifecycle.withdraw_asking(model, now_s)
        self.stop_unused(model, now_s)

    def give_up_group(self, model: Model, group: str, error: WorkerError) -> None:
        """Fail what waits with the same params, and have what comes later fail, too."""
        model.broken[group] = error
        if len(model.broken) > MAX_BROKEN:
            del model.broken[next(iter(model.broken))]
        self._outbox.note("model_failed", model=model.name, error=error.message)
        waiting = [*model.suspects, *(item for _, item in model.resting), *model.oversized]
        queued = model.queue.of_group(group)
        gone = {*queued, *[item for item in waiting if item.group == group]}
        model.queue.remove(queued)
        for items in (model.suspects, model.oversized):
            kept = [item for item in items if item not in gone]
            items.clear()
            items.extend(kept)
        model.resting[:] = [(until_s, item) for until_s, item in model.resting if item not in gone]
        for item in sorted(gone, key=lambda item: item.order):
            self._blame_tracker.forget(item)
            self._jobs.item_failed(item, error, blamed(model, error))

    def fail_waiting(self, model: Model, error: WorkerError) -> None:
        """Fail what waits for a model, the first with the whole story; end its merged runs."""
        if model.is_chain:
            self._end_merges(model.queue.drain())
            return
        shown = error
        resting = (item for _, item in model.resting)
        for item in [*model.suspects, *resting, *model.oversized, *model.queue.drain()]:
            self._blame_tracker.forget(item)
            self._jobs.item_failed(item, shown, blamed(model, error))
            shown = error.brief()
        model.suspects.clear()
        model.resting.clear()
        model.oversized.clear()

    def stop_unused(self, model: Model, now_s: float) -> None:
        """End the workers of a model that was given up, once they have nothing in flight."""
        for worker in model.alive:
            if worker.stage is Stage.ASKING:
                self._lifecycle.step_back(worker, now_s)
            if not worker.in_flight:
                self._lifecycle.stop(worker, "its model was given up")


def blamed(model: Model, error: WorkerError) -> str:
    """Return what messages call the cause of an error that all items of a model have."""
    return f"tool {model.tool.ref}" if error.is_of_contract else f"model {model.name}"


def oversize_error(error: WorkerError, worker: ModelWorker) -> WorkerError:
    """Say of an item that no memory was enough for it, and what to do."""
    where = ", ".join(device.name for device in worker.devices)
    message = (
        f"it needs more memory than {where} has, even alone in its batch and with nothing else on "
        f"the device. Shorten or split it, choose a smaller model or a lower precision, or a "
        f"device with more memory. The tool said: {error.type}: {error.message}"
    )
    return dataclasses.replace(error, kind=INPUT, message=message)
