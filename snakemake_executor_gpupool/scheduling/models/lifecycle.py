"""Models' workers on devices: asked for, granted, loaded, moved, idle, evicted, ended. Pure.

:class:`WorkerLifecycle` follows each worker through its stages and carries out what the device
allocator decides. How many workers there are is :mod:`~.scaling`'s, what they compute
:mod:`~.batching`'s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import (
    AllocationEffect,
    Allocator,
    DeviceRequest,
    Evict,
    Granted,
)
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.device_requests import need_mib
from snakemake_executor_gpupool.scheduling.domain_events import (
    DomainEvents,
    LeaseDecided,
    ModelRefused,
    WorkerSettled,
    WorkerStarted,
)
from snakemake_executor_gpupool.scheduling.effects import (
    ClaimDevices,
    LoadModel,
    MoveModel,
    Outbox,
    StartWorker,
    StopWorker,
)
from snakemake_executor_gpupool.scheduling.files.deaths import crash_error
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.models.worker_names import WorkerNames
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.model_messages import Loaded

#: Why a worker in host memory is ended: its process can return to no other device.
GONE = "its device is gone"


class WorkerLifecycle:
    """The workers of all models, between the allocator and the work.

    Attributes
    ----------
    workers
        All of them by their ids, those that wait for devices and those that are ending included.
    counts
        ``model_loads``, ``evictions``, ``offloads`` and ``worker_crashes`` of the run.
    """

    def __init__(
        self,
        allocator: Allocator,
        outbox: Outbox,
        events: DomainEvents,
        blame_tracker: BlameTracker,
    ) -> None:
        self._allocator = allocator
        self._outbox = outbox
        self._events = events
        self._blame_tracker = blame_tracker
        self._names = WorkerNames()
        self.workers: dict[str, ModelWorker] = {}
        #: Those that idle on GPUs, or did until they were told to leave.
        self.idle_on_gpus: dict[str, ModelWorker] = {}
        self.counts: Counter[str] = Counter()
        #: What is granted, and being taken against other processes, by its holder.
        self._claiming: dict[str, tuple[Device, ...]] = {}
        #: By their names: when devices are taken back; those not in it: never.
        self._ends_at_s: dict[str, float] = {}

    # -- asking ------------------------------------------------------------------
    def ask(
        self, model: Model, now_s: float, *, alone: bool = False, ahead: bool = False
    ) -> ModelWorker:
        """Let one more worker of a model wait for devices, and return it.

        Parameters
        ----------
        alone
            With nobody else on them.
        ahead
            Before there is work for it: on devices that are free, or not at all.
        """
        worker_id = self._names.new(model.tool.name)
        worker = ModelWorker(worker_id, model, since_s=now_s, is_alone=alone, is_ahead=ahead)
        worker.is_provisional, worker.vram_mib = ahead, model.vram_mib
        self.workers[worker_id] = model.workers[worker_id] = worker
        request = self.request_of(model, worker_id, alone=alone)
        self.apply(self._allocator.request(request, now_s), now_s)
        if ahead and worker.stage is Stage.ASKING:
            self.step_back(worker, now_s)
        return worker

    def request_of(self, model: Model, worker_id: str, *, alone: bool = False) -> DeviceRequest:
        """Return what a worker of a model asks the allocator for."""
        priority = max((-item.level[0] for item in model.suspects), default=0)
        return DeviceRequest(
            request_id=worker_id,
            spec=model.spec,
            kind="worker",
            owner=model.name,
            group=model.key,
            priority=max(priority, model.priority),
            vram_mib=need_mib(model, self._allocator),
            can_offload=model.info.can_move and model.info.persistent,
            alone=alone,
        )

    def step_back(self, worker: ModelWorker, now_s: float) -> None:
        """Let a worker wait for devices no longer."""
        if worker.has_loaded:
            worker.stage = Stage.AWAY
        else:
            self._forget(worker)
        self.apply(self._allocator.withdraw(worker.worker_id, now_s), now_s)

    def withdraw_asking(self, model: Model, now_s: float) -> None:
        """Take a model's workers that were never loaded out of the line for devices."""
        for worker in model.alive:
            if worker.stage in (Stage.ASKING, Stage.CLAIMING) and not worker.has_loaded:
                self._forget(worker)
                self.apply(self._allocator.withdraw(worker.worker_id, now_s), now_s)

    def resume(self, worker: ModelWorker, now_s: float) -> None:
        """Let a worker whose weights are in host memory wait for devices again."""
        worker.stage = Stage.ASKING
        # Its process sees no other device than the ones it was started on.
        effects = self._allocator.resume(worker.worker_id, now_s, same_devices=True)
        self.apply(effects, now_s)

    def _forget(self, worker: ModelWorker) -> None:
        del self.workers[worker.worker_id], worker.model.workers[worker.worker_id]
        self.idle_on_gpus.pop(worker.worker_id, None)

    # -- what the allocator decides ----------------------------------------------
    def apply(self, effects: Iterable[AllocationEffect], now_s: float) -> None:
        """Carry out what the allocator decided."""
        for effect in effects:
            if isinstance(effect, Granted):
                self._claim(effect.request_id, effect.devices, now_s)
                continue
            holder = effect.holder_id if isinstance(effect, Evict) else effect.request_id
            worker = self.workers.get(holder)
            if worker is None:
                self._events.append(LeaseDecided(effect))
            elif isinstance(effect, Evict):
                self._evict(worker, effect.how)
            elif worker.has_loaded:
                self.stop(worker, GONE)
            elif worker.model.error is None:
                worker.model.error = crash_error(effect.reason)
                self._events.append(ModelRefused(worker.model.key))

    # -- against other processes ---------------------------------------------------
    def _claim(self, holder_id: str, devices: tuple[Device, ...], now_s: float) -> None:
        """Have granted devices taken; CPU slots are shared, and taken by nobody."""
        worker = self.workers.get(holder_id)
        if worker is not None and worker.stage is not Stage.ASKING:
            return  # it is ending, and they are free once it has
        if worker is not None:
            worker.stage, worker.since_s = Stage.CLAIMING, now_s
        self._claiming[holder_id] = devices
        if not any(map(is_gpu, devices)):
            self.devices_claimed(holder_id, now_s)
        else:
            is_ahead = worker is not None and worker.is_ahead
            self._outbox.put(ClaimDevices(holder_id, devices, is_ahead))

    def devices_claimed(self, holder_id: str, now_s: float) -> None:
        """This run owns the granted devices: their holder may use them, if it still wants to.

        If it does not, the run loop releases the locks of devices that no worker is on.
        """
        devices = self._claiming.pop(holder_id)
        worker = self.workers.get(holder_id)
        if worker is None:
            self._events.append(LeaseDecided(Granted(holder_id, devices)))
        elif worker.stage is Stage.CLAIMING:
            self._granted(worker, devices, now_s)

    def devices_refused(
        self, holder_id: str, device_name: str, why: str, now_s: float, *, lost: bool = False
    ) -> None:
        """Another process holds one of the granted devices, or it is broken (``lost``).

        Its holder waits again, at its old place in line.
        """
        del self._claiming[holder_id]
        self._outbox.note("device_refused", device=device_name, why=why)
        if lost:
            self.apply(self._allocator.lost(device_name, now_s), now_s)
        else:
            self.apply(self._allocator.foreign(device_name, True, now_s), now_s)
        worker = self.workers.get(holder_id)
        if worker is not None and worker.stage is Stage.CLAIMING:
            if worker.is_ahead:
                self.withdraw_asking(worker.model, now_s)
                return
            worker.stage = Stage.ASKING
        elif worker is not None or not self._allocator.has_devices(holder_id):
            return  # it ends, or is no longer wanted
        self.apply(self._allocator.retry(holder_id, now_s), now_s)

    def ends_at_s(self, worker: ModelWorker) -> float:
        """Return when the first of a worker's devices is taken back; infinite: never."""
        ends_s = (self._ends_at_s.get(device.name, math.inf) for device in worker.devices)
        return min(ends_s, default=math.inf)

    def given_back(self, device_name: str, now_s: float) -> None:
        """Another process has let go of a device."""
        self._outbox.note("device_given_back", device=device_name)
        self.apply(self._allocator.foreign(device_name, False, now_s), now_s)

    def devices_joined(
        self, devices: Sequence[Device], now_s: float, ends_at_s: float = math.inf
    ) -> None:
        """A machine joins or is back; ``ends_at_s``: until when this run may use it."""
        self._ends_at_s.update((device.name, ends_at_s) for device in devices)
        self.apply(self._allocator.join(devices, now_s), now_s)

    def devices_left(self, names: Iterable[str], now_s: float) -> None:
        """Devices are gone, or will be soon: their workers end once they are idle."""
        names = list(names)
        for name in names:
            self.apply(self._allocator.lost(name, now_s), now_s)
        for worker in self.workers.values():
            if worker.stage is Stage.AWAY and any(d.name in names for d in worker.devices):
                self.stop(worker, GONE)

    def make_room(self, device_name: str) -> None:
        """Another run waits for a device: end the workers that only idle on it."""
        for worker in self.workers.values():
            idle = worker.is_feedable and worker.idle_since_s is not None
            early = worker.is_ahead and worker.stage in (Stage.STARTING, Stage.LOADING)
            if (idle or early) and any(device.name == device_name for device in worker.devices):
                self.stop(worker, "another run waits for its device")

    def _granted(self, worker: ModelWorker, devices: tuple[Device, ...], now_s: float) -> None:
        was_loaded = bool(worker.devices)
        worker.devices, worker.since_s = devices, now_s
        names = [device.name for device in devices]
        self._outbox.note(
            "device_granted", worker=worker.worker_id, devices=names, model=worker.model.name
        )
        if worker.is_alone:
            self._empty(worker)
        if was_loaded:
            worker.stage, worker.is_leaving = Stage.MOVING, False
            self._outbox.put(MoveModel(worker.worker_id, devices))
        else:
            worker.stage = Stage.STARTING
            tool = worker.model.tool.ref
            is_ahead = worker.is_provisional
            self._outbox.put(StartWorker(worker.worker_id, tool, devices, is_ahead=is_ahead))
            self._events.append(WorkerStarted(tool, worker.node))
            if worker.is_ahead:
                self.apply(self._allocator.idle(worker.worker_id, now_s), now_s)

    def _empty(self, worker: ModelWorker) -> None:
        """End the processes whose weights have left a worker's devices: they still hold some."""
        for other in self.workers.values():
            if other.stage is Stage.AWAY and set(other.devices) & set(worker.devices):
                self.stop(other, f"{worker.worker_id} needs its device empty")

    def _evict(self, worker: ModelWorker, how: OffloadStrategy) -> None:
        if worker.stage is Stage.STOPPING:
            return
        self.counts["evictions"] += 1
        names = [device.name for device in worker.devices]
        self._outbox.note("evicted", worker=worker.worker_id, devices=names, how=how.value)
        if how is OffloadStrategy.CPU and worker.is_feedable:
            worker.stage, worker.is_leaving = Stage.MOVING, True
            self._outbox.put(MoveModel(worker.worker_id, ()))
        else:
            self.stop(worker, "evicted")

    # -- between batches -----------------------------------------------------------
    def busy(self, worker: ModelWorker, now_s: float) -> None:
        """A worker is given work."""
        self._idles_no_more(worker)
        self._allocator.busy(worker.worker_id, now_s)

    def _idles_no_more(self, worker: ModelWorker) -> None:
        worker.idle_since_s = worker.spare_since_s = None
        self.idle_on_gpus.pop(worker.worker_id, None)

    def rest(self, model: Model, workers: Sequence[ModelWorker], now_s: float) -> None:
        """Let those of these workers idle that have nothing to do: an eviction may take them."""
        for worker in workers:
            if worker.is_feedable and not worker.in_flight and worker.idle_since_s is None:
                if not model.info.persistent and not model.waiting:
                    self.stop(worker, "one-shot tool")
                    continue
                worker.idle_since_s = now_s
                if is_gpu(model.spec):
                    self.idle_on_gpus[worker.worker_id] = worker
                if not model.waiting:
                    for other in [w for w in model.workers.values() if w.is_in_line]:
                        self.step_back(other, now_s)
                self.apply(self._allocator.idle(worker.worker_id, now_s), now_s)

    # -- the end ---------------------------------------------------------------------
    def stop(self, worker: ModelWorker, why: str, *, force: bool = False) -> None:
        """End a worker's process; ``died`` follows once it has ended."""
        worker.stage = Stage.STOPPING
        self._allocator.leaves(worker.worker_id)
        self._outbox.put(StopWorker(worker.worker_id, why, force))

    def remove(self, worker_id: str, reason: str) -> tuple[ModelWorker, bool]:
        """Forget a worker whose process has ended; return it, and whether that is a crash."""
        worker = self.workers[worker_id]
        self._forget(worker)
        crashed = worker.stage is not Stage.STOPPING or worker.hung
        if crashed:
            self.counts["worker_crashes"] += 1
            self._outbox.note("worker_died", worker=worker_id, reason=reason)
        return worker, crashed

    def release(self, worker: ModelWorker, now_s: float) -> None:
        """What a worker held of its devices is free, since its process has ended."""
        self.apply(self._allocator.gone(worker.worker_id, now_s), now_s)

    # -- what workers tell ---------------------------------------------------------
    def process_ready(self, worker_id: str) -> None:
        """A model's process has imported the tool: it may load."""
        worker = self.workers[worker_id]
        if worker.stage is Stage.STARTING:
            worker.stage = Stage.LOADING
            model = worker.model
            params = model.params, model.more_params
            self._outbox.put(LoadModel(worker_id, worker.devices, *params, model.ident))

    def loaded(self, worker_id: str, message: Loaded, now_s: float) -> None:
        """A worker has its model on its devices."""
        worker = self.workers[worker_id]
        if worker.stage is not Stage.LOADING:  # it is being stopped
            return
        model = worker.model
        self.counts["model_loads"] += 1
        self._outbox.note(
            "model_loaded",
            worker=worker_id,
            model=model.name,
            seconds=round(message.seconds, 3),
            versions=dict(message.versions),
            **({} if message.peak_mib is None else {"peak_mib": message.peak_mib}),
        )
        model.learn_load(now_s - worker.since_s)
        model.merged.first_loaded(message.seconds, message.imported_s)
        worker.has_loaded = model.has_loaded = True
        self._blame_tracker.exonerate(model)
        model.memory = model.memory.loaded(message.peak_mib, message.batch_tokens)
        if model.budget_tokens is None:
            model.budget_tokens = message.batch_tokens
            # Not where memory was found not to be enough for that, in an earlier run, too.
            model.quick.most_tokens = message.quick_tokens
        self.ready(worker, now_s)

    def moved(self, worker_id: str, is_away: bool, now_s: float) -> None:
        """A worker's weights are in host memory, or back on its devices."""
        worker = self.workers[worker_id]
        if worker.stage is not Stage.MOVING:
            return
        names = [] if is_away else [device.name for device in worker.devices]
        self._outbox.note("model_moved", worker=worker_id, to=names or ["cpu"])
        if is_away:
            self.counts["offloads"] += 1
            worker.stage = Stage.AWAY
            self.apply(self._allocator.offloaded(worker_id, now_s), now_s)
            self._events.append(WorkerSettled(worker_id))
        else:
            self.ready(worker, now_s)

    def move_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """Weights could not be moved: the worker ends, its devices are free once it has."""
        worker = self.workers[worker_id]
        if worker.stage is not Stage.MOVING:
            return
        self._outbox.note("move_failed", worker=worker_id, error=error.message)
        if worker.is_leaving:
            self.apply(self._allocator.offload_failed(worker_id, now_s), now_s)
        self.stop(worker, "its weights could not be moved")

    def ready(self, worker: ModelWorker, now_s: float) -> None:
        """A worker can be given work."""
        worker.stage, worker.ready_s = Stage.READY, now_s
        self._idles_no_more(worker)
        self._events.append(WorkerSettled(worker.worker_id))
