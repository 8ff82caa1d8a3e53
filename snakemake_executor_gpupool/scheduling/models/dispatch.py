"""Gets models onto devices and micro-batches to workers. Pure decisions.

What one turn does, read downwards::

    feed(model):  ask for workers while another one pays
                  wait a moment if the first jobs' inputs are still coming in
                  give every free worker a micro-batch, then a second one beforehand
                  let workers without work rest, where an eviction may take them
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.errors import CONTRACT
from snakemake_executor_gpupool.scheduling.blame import MIN_TRIAL_S, Suspicion
from snakemake_executor_gpupool.scheduling.effects import Outbox, RunBatch, RunChains
from snakemake_executor_gpupool.scheduling.files.scheduler import crash_error
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.stage import ChainUnit
from snakemake_executor_gpupool.scheduling.models.model import Batch, Model, ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.models.scaling import Staffing
from snakemake_executor_gpupool.scheduling.results import Ledger, Unit
from snakemake_executor_gpupool.wire.frames import Blob

#: A unit that ends this many workers while it is alone with them is given up; more where
#: something outside kills (:mod:`~.suspicion`), as for all such bounds.
MAX_DEATHS_ALONE = 2
#: A model whose workers die this often while loading, one after the other, is given up.
MAX_LOAD_DEATHS = 3
#: Workers of a chain that may die; its requests go the ordinary way from then on.
MAX_CHAIN_DEATHS = 3


@dataclass(frozen=True)
class DispatchConfig:
    """What a user may tune.

    Attributes
    ----------
    batch_window_s
        How long a model without work waits for the inputs still being read.
    idle_timeout_s
        After how long without work a worker is ended; None: at the end of the run.
    batch_limit_factor
        How many times its expected time a micro-batch may take before it counts as hung,
        if that is more than its tool's ``batch_limit_s``.
    load_limit_s
        How long starting, loading or moving a model may take.
    """

    batch_window_s: float = 0.2
    idle_timeout_s: float | None = None
    batch_limit_factor: float = 20.0
    load_limit_s: float = 1800.0


class Dispatch(Staffing):
    """All models and their work; how many workers, and where, is :class:`Staffing`'s."""

    def __init__(
        self,
        allocator: Allocator,
        jobs: JobTable,
        ledger: Ledger,
        outbox: Outbox,
        suspicion: Suspicion,
        config: DispatchConfig,
    ) -> None:
        super().__init__(allocator, outbox, suspicion)
        self._jobs = jobs
        self._ledger = ledger
        self._config = config
        self._batches = 0
        self.models: dict[Hashable, Model] = {}
        #: Takes a chain that came to nothing, whatever the cause.
        self.on_chain_ended: Callable[[ChainUnit, float], None] = lambda chain, now_s: None
        self.busy_s: defaultdict[str, float] = defaultdict(float)

    # -- work in -----------------------------------------------------------------
    def add(self, model: Model, units: list[Unit], now_s: float) -> None:
        """Queue new units of a model."""
        if not model.waiting and not model.in_flight:
            model.window_opened_s = now_s
        for unit in units:
            if unit.group in model.broken:
                error = model.broken[unit.group]
                self._jobs.unit_failed(unit, error, blamed(model, error))
        model.push([unit for unit in units if not unit.is_done])
        self.feed(model, now_s)

    def feed(self, model: Model, now_s: float) -> None:
        """Do for one model what can be done now."""
        if model.error is not None:
            self._fail_waiting(model, model.error, now_s)
            self._stop_unused(model)
            return
        model.wake_resting(now_s)
        self._ask_for_workers(model, now_s)
        alive = model.alive
        if not self._is_gathering(model, now_s):
            self._hand_out(model, alive, now_s)
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
        if len(model.workers) < self._capacity(model) or model.oversized:
            self._ask_for_workers(model, now_s)
        if worker.stage is not Stage.STOPPING:
            self._hand_out(model, [worker], now_s)
            self._rest(model, [worker], now_s)

    def feed_all(self, now_s: float) -> None:
        """Do for every model what can be done now."""
        for model in self.models.values():
            self.feed(model, now_s)

    def _is_gathering(self, model: Model, now_s: float) -> bool:
        """Whether to let more inputs arrive before the first batch is cut."""
        if model.window_opened_s is None:
            return False
        waited_s = now_s - model.window_opened_s
        if model.tool.is_reading and waited_s < self._config.batch_window_s:
            return True
        if any(worker.is_feedable for worker in model.alive):
            model.window_opened_s = None
        return False

    # -- batches -----------------------------------------------------------------
    def _hand_out(self, model: Model, workers: list[ModelWorker], now_s: float) -> None:
        """Give a model's work to those of these workers that should have some."""
        ready = [worker for worker in workers if worker.is_feedable]
        for worker in ready:
            if not worker.in_flight and not self._is_turn_over(worker, now_s):
                self._send_batch(worker, now_s)
        if not model.info["persistent"]:
            return
        most_in_hands = model.most_in_hands_for_another()
        for worker in ready:
            ahead = len(worker.in_flight) == 1 and worker.in_flight[0].cost < most_in_hands
            if ahead and not self._is_turn_over(worker, now_s):
                self._send_batch(worker, now_s)
                most_in_hands = model.most_in_hands_for_another()

    def _is_turn_over(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether a worker should stop here, although there is work, for somebody else's."""
        return self._allocator.wants_yield(
            worker.worker_id, now_s, since_s=worker.ready_s, load_s=worker.model.load_s or 0.0
        )

    def _first_look(self, model: Model) -> list[Unit]:
        """Return a model's very first batch: the job that is done soonest.

        So there are outputs before the costliest items are done, and a speed to plan by.
        """
        if model.items_done or model.in_flight or model.suspects or model.oversized:
            return []
        units = self._jobs.soonest_done(set(model.queue))
        if not units or not model.fits_one_batch(units):
            return []
        model.queue.remove(set(units))
        return units

    def _send_batch(self, worker: ModelWorker, now_s: float) -> None:
        units = self._first_look(worker.model) or worker.model.next_batch(worker, self._abandon)
        if not units:
            return
        if self._comes_too_late(worker, units):
            self._requeue(worker.model, units)
            self.devices_left([device.name for device in worker.devices], now_s)
            return
        self._batches += 1
        batch = Batch(self._batches, units, now_s)
        worker.in_flight.append(batch)
        worker.idle_since_s = None
        self._jobs.handed_out(units)
        self._allocator.busy(worker.worker_id, now_s)
        self._outbox.note(
            "batch_sent",
            batch=batch.batch_id,
            worker=worker.worker_id,
            items=len(units),
            jobs=sorted({job_id for unit in units for job_id, _ in unit.places}),
            tokens=sum(unit.tokens for unit in units),
            longest_tokens=max(unit.tokens for unit in units),
        )
        chains = [unit for unit in units if isinstance(unit, ChainUnit)]
        if chains:
            self._outbox.put(RunChains(worker.worker_id, batch.batch_id, chains))
            return
        params = worker.model.params_of_group[units[0].group]
        self._outbox.put(RunBatch(worker.worker_id, batch.batch_id, params, units))

    def _comes_too_late(self, worker: ModelWorker, units: list[Unit]) -> bool:
        """Whether a worker's machine is given back before it would be through with a batch."""
        left_s = self.time_left_s(worker.devices)
        if left_s == math.inf:
            return False
        cost = sum(b.cost for b in worker.in_flight) + sum(unit.cost for unit in units)
        return (worker.model.speed.seconds(cost, len(worker.in_flight) + 1) or 0.0) > left_s

    def _rest(self, model: Model, workers: list[ModelWorker], now_s: float) -> None:
        for worker in workers:
            if worker.is_feedable and not worker.in_flight and worker.idle_since_s is None:
                if not model.info["persistent"] and not model.waiting:
                    self._stop(worker, "one-shot tool")
                    continue
                worker.idle_since_s = now_s
                if not model.waiting:
                    for other in [w for w in model.workers.values() if w.is_in_line]:
                        self._step_back(other, now_s)
                self.apply(self._allocator.idle(worker.worker_id, now_s), now_s)

    def batch_done(
        self,
        worker_id: str,
        outcomes: list[dict[str, Any]],
        blobs: list[Blob],
        seconds: float,
        now_s: float,
        peak_mib: int | None = None,
    ) -> None:
        """A worker has answered its oldest micro-batch."""
        worker = self._workers[worker_id]
        model = worker.model
        batch = self._batch_over(worker, seconds, now_s, peak_mib)
        if any(outcome["oom"] for outcome in outcomes):
            model.shrink_budget(batch)
            self._outbox.note("out_of_memory", worker=worker_id, budget=model.budget_tokens)
        self._settle(worker, batch, outcomes, blobs, seconds, now_s)
        errors = [outcome["error"] for outcome in outcomes if outcome["error"] is not None]
        broken = [error for error in errors if error["kind"] == CONTRACT]
        if broken:
            # No item is to blame, and no other one with these params would do better.
            self._give_up_group(model, batch.units[0].group, broken[0])
        if not model.info["persistent"]:
            self._stop(worker, "one-shot tool")
        if errors:
            self.feed(model, now_s)
        else:
            self._feed_one(worker, now_s)

    def chains_done(self, worker_id: str, now_s: float, peak_mib: int | None = None) -> None:
        """A worker has answered all stages of its oldest dispatch of chains."""
        worker = self._workers[worker_id]
        batch = self._batch_over(worker, worker.in_flight[0].seconds, now_s, peak_mib)
        worker.model.items_done += len(batch.units)
        self.feed(worker.model, now_s)

    def _batch_over(
        self, worker: ModelWorker, seconds: float, now_s: float, peak_mib: int | None
    ) -> Batch:
        model, batch = worker.model, worker.in_flight.popleft()
        if worker.in_flight:
            worker.in_flight[0].sent_s = now_s
        model.speed.learn(batch.cost, seconds, len(batch.units))
        model.memory = model.memory.computed(peak_mib, model.batch_tokens(batch))
        for device in worker.devices:
            self.busy_s[device.name] += seconds
        seconds = round(seconds, 6)
        self._outbox.note(
            "batch_done", batch=batch.batch_id, worker=worker.worker_id, seconds=seconds
        )
        return batch

    def _settle(
        self,
        worker: ModelWorker,
        batch: Batch,
        outcomes: list[dict[str, Any]],
        blobs: list[Blob],
        seconds: float,
        now_s: float,
    ) -> None:
        model, results, node = worker.model, iter(blobs), worker.node
        total = batch.cost or len(batch.units)
        for unit, outcome in zip(batch.units, outcomes, strict=True):
            self._suspicion.cleared(unit)
            error = outcome["error"]
            if error is not None and outcome["oom"]:
                if not worker.is_alone:
                    model.oversized.append(unit)
                    continue
                error = oversize_error(error, worker)
            model.items_done += 1
            if error is None:
                share_s = seconds * (unit.cost if batch.cost else 1.0) / total
                self._jobs.unit_done(unit, next(results), share_s, worker.worker_id, now_s, node)
            else:
                where = blamed(model, error) if error["kind"] == CONTRACT else ""
                self._jobs.unit_failed(unit, error, where)

    # -- deaths ----------------------------------------------------------------------
    def died(self, worker_id: str, reason: str, now_s: float, *, blameless: bool = False) -> None:
        """A process is gone and what it held is free."""
        worker = self._workers.pop(worker_id)
        model = worker.model
        del model.workers[worker_id]
        if worker.stage is not Stage.STOPPING or worker.hung:
            self.counts["worker_crashes"] += 1
            self._outbox.note("worker_died", worker=worker_id, reason=reason)
            if model.is_chain:
                self._blame_chain(worker, reason, now_s, blameless=blameless)
            elif not blameless:
                self._blame(worker, reason, now_s)
        self._end_chains([unit for batch in worker.in_flight for unit in batch.units], now_s)
        for batch in worker.in_flight:
            self._requeue(model, batch.units)
        worker.in_flight.clear()
        self.apply(self._allocator.gone(worker_id, now_s), now_s)
        self.feed(model, now_s)

    def _blame(self, worker: ModelWorker, reason: str, now_s: float) -> None:
        if not worker.has_loaded:
            self._blame_loading(worker, reason, now_s)
            return
        units = worker.in_flight.popleft().units if worker.in_flight else []
        self._suspicion.died(units, now_s)
        for unit in units:
            if self._suspicion.is_guilty(unit, MAX_DEATHS_ALONE, now_s):
                count = self._suspicion.deaths_alone(unit)
                message = f"{count} workers died while computing it alone: {reason}"
                self._suspicion.forget(unit)
                self._jobs.unit_failed(unit, crash_error(message))
            else:
                worker.model.resting.append((self._suspicion.next_try_s(unit), unit))

    def _blame_chain(
        self, worker: ModelWorker, reason: str, now_s: float, *, blameless: bool
    ) -> None:
        """Look no further than whether to go on merging: what it had in hands is tried apart."""
        if blameless:
            return
        worker.model.chain_deaths += 1
        if not worker.has_loaded or worker.model.chain_deaths >= MAX_CHAIN_DEATHS:
            self._give_up_model(worker.model, crash_error(f"its worker died: {reason}"), now_s)

    def _end_chains(self, units: Iterable[Unit], now_s: float) -> None:
        for unit in units:
            if isinstance(unit, ChainUnit) and not unit.is_over:
                self.on_chain_ended(unit, now_s)

    def _blame_loading(self, worker: ModelWorker, reason: str, now_s: float) -> None:
        model = worker.model
        known_good = model.has_loaded
        self._suspicion.died([model], now_s, since_s=worker.since_s, came_through_before=known_good)
        self._withdraw_asking(model, now_s)
        # Whatever this one's trouble was, others serve.
        is_served = any(other.has_loaded for other in model.alive)
        if not is_served and self._suspicion.is_guilty(
            model, MAX_LOAD_DEATHS, now_s, least_s=MIN_TRIAL_S
        ):
            error = crash_error(f"its worker died while loading: {reason}")
            self._give_up_model(model, error, now_s)

    def _requeue(self, model: Model, units: list[Unit]) -> None:
        model.queue.push(unit for unit in units if unit.places)
        for unit in units:
            if not unit.places:
                self._abandon(unit)

    def _abandon(self, unit: Unit) -> None:
        self._suspicion.forget(unit)
        self._ledger.abandon(unit)

    def _give_up_model(self, model: Model, error: dict[str, Any], now_s: float) -> None:
        model.error = error
        self._suspicion.forget(model)
        self._outbox.note("model_failed", model=model.name, error=error["message"])
        self._fail_waiting(model, error, now_s)
        self._withdraw_asking(model, now_s)
        self._stop_unused(model)

    def _give_up_group(self, model: Model, group: str, error: dict[str, Any]) -> None:
        """Fail what waits with the same params, and have what comes later fail, too."""
        model.broken[group] = error
        self._outbox.note("model_failed", model=model.name, error=error["message"])
        waiting = [*model.suspects, *(unit for _, unit in model.resting), *model.oversized]
        gone = {unit for unit in (*waiting, *model.queue) if unit.group == group}
        model.queue.remove(gone & set(model.queue))
        for units in (model.suspects, model.oversized):
            kept = [unit for unit in units if unit not in gone]
            units.clear()
            units.extend(kept)
        model.resting[:] = [(until_s, unit) for until_s, unit in model.resting if unit not in gone]
        for unit in sorted(gone, key=lambda unit: unit.order):
            self._suspicion.forget(unit)
            self._jobs.unit_failed(unit, error, blamed(model, error))

    def _stop_unused(self, model: Model) -> None:
        """End the workers of a model that was given up, once they have nothing in flight."""
        for worker in model.alive:
            if not worker.in_flight:
                self._stop(worker, "its model was given up")

    def _withdraw_asking(self, model: Model, now_s: float) -> None:
        """Let nobody start whose turn comes later: it is to be decided anew by then."""
        for worker in model.alive:
            if worker.stage is Stage.ASKING and not worker.has_loaded:
                del self._workers[worker.worker_id], model.workers[worker.worker_id]
                self.apply(self._allocator.withdraw(worker.worker_id, now_s), now_s)

    def _fail_waiting(self, model: Model, error: dict[str, Any], now_s: float) -> None:
        if model.is_chain:
            self._end_chains(model.queue.drain(), now_s)
            return
        told = error
        resting = (unit for _, unit in model.resting)
        for unit in [*model.suspects, *resting, *model.oversized, *model.queue.drain()]:
            self._suspicion.forget(unit)
            self._jobs.unit_failed(unit, told, blamed(model, error))
            told = {**error, "traceback": ""}
        model.suspects.clear()
        model.resting.clear()
        model.oversized.clear()

    # -- time ------------------------------------------------------------------------
    def tick(self, now_s: float) -> None:
        """Act on what only time brings: windows, idle workers, hung batches."""
        for worker in list(self._workers.values()):
            if self._is_hung(worker, now_s):
                worker.hung = True
                self._stop(worker, "hung", force=True)
            elif self._is_idle_too_long(worker, now_s):
                self._stop(worker, "idle")
        self.feed_all(now_s)

    def _is_idle_too_long(self, worker: ModelWorker, now_s: float) -> bool:
        timeout_s = self._config.idle_timeout_s
        if timeout_s is None or worker.idle_since_s is None or not worker.is_feedable:
            return False
        return now_s - worker.idle_since_s >= timeout_s and not worker.model.waiting

    def _is_hung(self, worker: ModelWorker, now_s: float) -> bool:
        if worker.stage in (Stage.STARTING, Stage.LOADING, Stage.MOVING):
            return now_s - worker.since_s > self._config.load_limit_s
        if worker.stage is not Stage.READY or not worker.in_flight:
            return False
        batch = worker.in_flight[0]
        expected_s = worker.model.speed.seconds(batch.cost) or 0.0
        least_s: float = worker.model.info["batch_limit_s"]
        limit_s = max(least_s, self._config.batch_limit_factor * expected_s)
        return now_s - batch.sent_s > min(limit_s, self._jobs.patience_s(batch.units))

    def next_wake_s(self, now_s: float) -> float:
        """Return when time alone may next change something, at most a second away."""
        gathering = any(model.window_opened_s is not None for model in self.models.values())
        wake_s = now_s + (min(self._config.batch_window_s, 0.05) if gathering else 1.0)
        for model in self.models.values():
            tries_s = [until_s for until_s, _ in model.resting]
            tries_s.append(self._suspicion.next_try_s(model))
            wake_s = min([wake_s, *(try_s for try_s in tries_s if try_s > now_s)])
        return wake_s


def blamed(model: Model, error: dict[str, Any]) -> str:
    """Return what messages call the cause of an error that all items of a model have."""
    return f"tool {model.tool.ref}" if error.get("kind") == CONTRACT else f"model {model.name}"


def oversize_error(error: dict[str, Any], worker: ModelWorker) -> dict[str, Any]:
    """Say of an item that no memory was enough for it, and what to do."""
    where = ", ".join(device.name for device in worker.devices)
    message = (
        f"it needs more memory than {where} has, even alone in its batch and with nothing else on "
        f"the device. Shorten or split it, choose a smaller model or a lower precision, or a "
        f"device with more memory. The tool said: {error['type']}: {error['message']}"
    )
    return {**error, "kind": "input", "message": message}
