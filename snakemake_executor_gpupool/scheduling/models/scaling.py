"""How many workers a model has, and which of them come back. Pure decisions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.models.arriving import ArrivingJobs
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.models.plan import ends_before_a_load, workers_that_pay
from snakemake_executor_gpupool.scheduling.models.shares import deal, waiting_s
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import MOST_AHEAD, Outlook


class WorkerScaling:
    """Lets as many workers of each model wait for devices as pay."""

    def __init__(
        self,
        allocator: Allocator,
        models: ModelTable,
        lifecycle: WorkerLifecycle,
        blame_tracker: BlameTracker,
        outlook: Outlook,
        arriving: ArrivingJobs,
    ) -> None:
        self._models = models
        self._outlook = outlook
        self._arriving = arriving
        #: Models for which more workers would pay as soon as another one's idle.
        self.limited: dict[Hashable, Model] = {}
        self._allocator = allocator
        self._lifecycle = lifecycle
        self._blame_tracker = blame_tracker

    def capacity(self, model: Model) -> int:
        """Return how many workers of a model the managed devices could hold; at least one."""
        if model.spec.names:
            return 1
        managed = len(self._allocator.like(model.spec))
        return max(managed // max(model.spec.count, 1), 1)

    def free_places(self, model: Model, *, empty: bool = False) -> int:
        """Return how many more of a model's workers could start where nobody is, or is needed.

        Devices whose workers' models have no job left are divided among those models that have
        some, and go first where most waits. ``empty``: only where nobody is.
        """
        if not is_gpu(model.spec):
            return self.capacity(model)
        users = self._allocator.allocation_map()
        suited = [device.name for device in self._allocator.like(model.spec)]
        free = sum(not users.get(name) for name in suited)
        needless = Counter[str]() if empty else self._needless(model)
        if needless:
            idle = sum(0 < len(users.get(name, ())) <= needless[name] for name in suited)
            share = math.ceil(idle / (1 + self._outlook.others_to_come(model)))
            free += min(share, self._dealt(model, idle))
        return free // max(model.spec.count, 1)

    def _needless(self, model: Model) -> Counter[str]:
        """Count on each device the idle workers of other models without work, or jobs to come."""
        if not self._outlook.is_complete or not self._outlook.weighs(model):
            return Counter()
        return Counter(
            device.name
            for worker in self._lifecycle.idle_on_gpus.values()
            if worker.is_feedable and worker.model is not model and not worker.model.waiting
            if self._outlook.is_over(worker.model)
            for device in worker.devices
        )

    def _dealt(self, model: Model, devices: int) -> int:
        """Return how many of some devices a model gets, of all models that have work."""
        ready = [other for other in self._models.values() if other.waiting]
        if all(map(is_measured, ready)):
            works_s = [waiting_s(other) for other in ready]
        else:
            works_s = [float(other.waiting) for other in ready]
        workers = [sum(w.is_coming for w in other.workers.values()) for other in ready]
        return sum(
            count
            for other, count in zip(ready, deal(works_s, workers, devices), strict=True)
            if other is model
        )

    def adjust(self, model: Model, now_s: float) -> None:
        """Have as many of a model's workers come as pay; those who wait beyond that step back."""
        if self.holds(model, now_s):
            self._arriving.held[model.key] = model
            return
        self._arriving.forget(model)
        self._ask_for_more(model, now_s)
        if model.error is not None:
            return  # no device will do
        is_room_asked = model.oversized and any(worker.is_alone for worker in model.alive)
        if model.oversized and not is_room_asked and self._may_load(model, now_s):
            self._lifecycle.ask(model, now_s, alone=True)
        if model.oversized:
            for worker in [w for w in model.alive if w.stage is Stage.AWAY and w.is_alone]:
                self._lifecycle.resume(worker, now_s)

    def holds(self, model: Model, now_s: float) -> bool:
        """Whether a model is not loaded yet: it would take another's place, and again later."""
        return self._arriving.holds(model, now_s) and not self.free_places(model)

    def _ask_for_more(self, model: Model, now_s: float) -> None:
        """Let as many workers wait for devices as pay, no matter what was thought before."""
        most = capacity = self.capacity(model)
        model.held_back = 0
        coming = sum(worker.is_coming for worker in model.workers.values())
        if coming >= capacity and coming == len(model.workers):
            return
        in_line = [worker for worker in model.workers.values() if worker.is_in_line]
        if has_enough_workers(model, now_s, MOST_AHEAD * (self._outlook.job_s(model) or 0.0)):
            for worker in in_line:
                self._lifecycle.step_back(worker, now_s)
            return
        free = self.free_places(model)
        if self._allocator.is_wanted_by_others(model.key):
            # A device taken from another model would do no more work than before.
            most = min(max(coming + free, 1), capacity)
        free = self._left_by_others(model, free, least=0 if coming else min(free, 1))
        # On devices that no other model will need, work counts that will come.
        to_spare = self._has_to_spare(model, free)
        later_s = self._outlook.work_within(model, model.load_s or 0.0) if to_spare else []
        wanted = model.workers_wanted(free, most, now_s, later_s) - coming
        if wanted > free and wanted + coming > 1:
            cheap = self._most_beside_others(model, coming, wanted)
            if cheap < wanted:
                dear = self._wanted_at_twice(model, most, now_s, later_s)
                wanted = max(cheap, min(wanted, dear - coming))
                self.limited[model.key] = model
        self._note_held_back(model, most, coming + wanted, now_s)
        for worker in in_line[max(wanted, 0) :]:
            self._lifecycle.step_back(worker, now_s)
        for _ in range(wanted - len(in_line)):
            if model.error is None:
                self._get_one_more(model, capacity, now_s)

    def _note_held_back(self, model: Model, most: int, wanted: int, now_s: float) -> None:
        """Note how many more workers would pay on devices that others will soon be done with.

        A batch should leave them something, or there is nothing to do for those that come later.
        """
        if not self._outlook.is_complete or not is_measured(model) or not is_gpu(model.spec):
            return
        if not self._outlook.weighs(model):
            return
        more = model.workers_wanted(most, most, now_s) - wanted
        model.held_back = min(more, self._ending(model)) if more > 0 else 0
        if model.held_back:
            self.limited[model.key] = model

    def _ending(self, model: Model) -> int:
        """Count the workers of other models that compute the last of their jobs."""
        others = {w.model.key: w.model for w in self._lifecycle.workers.values() if w.is_coming}
        return sum(
            worker.is_coming
            for other in others.values()
            if other is not model and is_gpu(other.spec) and self._outlook.is_over(other)
            for worker in other.workers.values()
        )

    def _left_by_others(self, model: Model, free: int, least: int) -> int:
        """Return how many free devices other models leave that are to be loaded meanwhile.

        Each waits for its load as this one does, and a device on which it is loaded ahead saves it.
        Looked up only where it matters: it asks for the next jobs of all models.
        """
        knows = self._outlook.is_known and is_measured(model) and is_gpu(model.spec)
        if free <= least or not knows:
            return free
        loads = self._outlook.loads_within((model.load_s or 0.0) + waiting_s(model))
        return max(free - loads, least)

    def _has_to_spare(self, model: Model, free: int) -> bool:
        """Whether more devices can be had than other models may want."""
        others = self._outlook.others_to_come(model)
        if free > others or not self._outlook.is_known or not is_measured(model):
            return free > others
        return free + self._to_be_had(model, math.inf) > others

    def _most_beside_others(self, model: Model, coming: int, wanted: int) -> int:
        """Return how many more workers of a model may take devices, none of which is needed soon.

        That is before the model would be loaded there; at all, where nobody knows yet whether more
        are worth what others would have to load again.
        """
        if not (is_gpu(model.spec) and self._outlook.is_known and self._outlook.weighs(model)):
            return wanted
        places = self.free_places(model, empty=True)
        if model.load_s is not None and is_measured(model):
            places += self._to_be_had(model, model.load_s)
        else:
            places += self._dealt(model, self._to_be_had(model, math.inf))
        return max(places, 1 - coming)

    def _wanted_at_twice(
        self, model: Model, most: int, now_s: float, later_s: Sequence[float]
    ) -> int:
        """Return how many workers pay where others have to be loaded again for them."""
        if is_measured(model):
            return model.workers_wanted(0, most, now_s, later_s, price=2.0)
        guessed = self._outlook.guessed_s(model)
        if guessed is None:
            return 0
        load_s, jobs_s = guessed
        there_s = [0.0 for worker in model.workers.values() if worker.is_coming]
        return workers_that_pay(jobs_s, there_s, load_s, 0, most, 2 * load_s)

    def _to_be_had(self, model: Model, within_s: float) -> int:
        """Return how many idle workers of other models can go, without one that is needed soon.

        All of models that get no work within some seconds, and all but one of each other model.
        """
        idle = defaultdict[Hashable, list[ModelWorker]](list)
        for worker in self._lifecycle.idle_on_gpus.values():
            if worker.is_feedable and worker.model is not model:
                idle[worker.model.key].append(worker)
        number = 0
        for workers in idle.values():
            other = workers[0].model
            next_s = self._outlook.model_next_use_s(other)
            is_needed = next_s <= within_s and next_s < math.inf
            if is_needed:
                ready = sum(worker.is_feedable for worker in other.workers.values())
                number += min(len(workers), ready - 1)
            else:
                number += len(workers)
        return number

    def _get_one_more(self, model: Model, capacity: int, now_s: float) -> None:
        """Have a worker come back whose devices are free, else a new one, else any come back."""
        away = [worker for worker in model.alive if worker.stage is Stage.AWAY]
        users = self._allocator.allocation_map()
        home_free = [w for w in away if not any(users.get(d.name) for d in w.devices)]
        is_room = len(model.alive) < capacity and (not away or self.free_places(model) > 0)
        if home_free or (away and not is_room):
            self._lifecycle.resume((home_free or away)[0], now_s)
        elif is_room and self._may_load(model, now_s):
            self._lifecycle.ask(model, now_s)

    def _may_load(self, model: Model, now_s: float) -> bool:
        """Once a worker has died while loading, one at a time tries, after a wait."""
        if not self._blame_tracker.is_suspect(model):
            return True
        is_tried = any(not worker.has_loaded for worker in model.alive)
        return not is_tried and self._blame_tracker.next_try_s(model) <= now_s


def has_enough_workers(model: Model, now_s: float, later_s: float) -> bool:
    """Tell whether no more workers pay, from all that waits together; often that is enough.

    Parameters
    ----------
    later_s
        What comes before one more worker could be ready takes no more than that.
    """
    rate_s, load_s, waiting = model.speed.s_per_cost, model.load_s, model.waiting
    if not waiting or load_s is None or rate_s is None:
        return False
    cost, later = model.waiting_cost(), model.large_jobs.later_cost
    batches = model.speed.batches_of(waiting) * (1.0 + (later / cost if cost else 0.0))
    seconds = rate_s * (cost + later) + model.speed.fixed_s * (batches - 1.0) + later_s
    if seconds > load_s:
        return False
    coming = [worker for worker in model.workers.values() if worker.is_coming]
    free_at_s = [model.free_in_s(worker, now_s) for worker in coming]
    return ends_before_a_load(seconds, free_at_s, load_s)


def is_measured(model: Model) -> bool:
    """Return whether it is known what a load of a model takes, and what its items do."""
    return model.load_s is not None and model.speed.s_per_cost is not None
