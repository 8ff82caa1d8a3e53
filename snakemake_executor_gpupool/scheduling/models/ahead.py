"""Loads models before there is work for them, on devices that nobody else needs. Pure decisions."""

from __future__ import annotations

import math

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.allocation.requests import suits
from snakemake_executor_gpupool.devices.device import Device, fit_one_process
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.models.arriving import ArrivingJobs
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import Outlook

#: How often free devices are looked at.
LOOK_AGAIN_S = 0.2
#: So long after another run has asked for a device nothing is loaded ahead.
HOLD_OFF_S = 30.0
#: A model that none of several runs foresees a job of makes room once it has idled for so long:
#: somebody without a forecast may use it.
NOBODYS_S = 5.0


class LoadAhead:
    """Has the model that is used next loaded on a free device.

    Its worker is idle from the start, so that whoever is ready gets its device at once.
    """

    def __init__(
        self,
        allocator: Allocator,
        models: ModelTable,
        lifecycle: WorkerLifecycle,
        outlook: Outlook,
        blame_tracker: BlameTracker,
        arriving: ArrivingJobs,
    ) -> None:
        self._allocator = allocator
        self._models = models
        self._lifecycle = lifecycle
        self._outlook = outlook
        self._blame_tracker = blame_tracker
        self._arriving = arriving
        self._next_s = -math.inf

    def hold_off(self, now_s: float) -> None:
        """Leave free devices to other runs for a while: one waits for some."""
        self._next_s = now_s + HOLD_OFF_S

    def leave_to_ready(self, until_s: float) -> None:
        """Leave devices that have just become idle to those that have work: they look first."""
        self._next_s = max(self._next_s, until_s)

    def look_soon(self, now_s: float) -> None:
        """Look at the next opportunity: more is known. Not while devices are left to others."""
        if self._next_s <= now_s + LOOK_AGAIN_S:
            self._next_s = now_s

    def look(self, now_s: float) -> int:
        """Load what is used next, as far as devices are free and nobody waits for one.

        Return of how many models more it is worth knowing which they are: one that comes after
        these, and each that has a free GPU.
        """
        if now_s < self._next_s or self._allocator.is_wanted_by_others(None):
            return 0
        if self._arriving.held:
            return 0  # there is work enough, and no device
        self._next_s = now_s + LOOK_AGAIN_S
        self._load(now_s)
        has_gpus = any(map(is_gpu, self._allocator.devices))
        return max(len(self.free_gpus()), 1) if has_gpus else 0

    def _load(self, now_s: float) -> None:
        free = len(self.free_gpus())
        # Where no device is free, one may be made free.
        wanted = [use for use in self._wanted(max(free, 1)) if use[1] > len(use[0].alive)]
        if not wanted:
            return
        if not free:
            self._end_needless(now_s)
            self._next_s = now_s
        # Each model once, then more workers of those that are used first.
        for model, _ in wanted:
            if not model.alive and self._has_place(model):
                self._lifecycle.ask(model, now_s, ahead=True)
        for model, number in wanted:
            for _ in range(number - len(model.alive)):
                if self._has_place(model):
                    self._lifecycle.ask(model, now_s, ahead=True)

    def _wanted(self, most: int) -> list[tuple[Model, int]]:
        """Return which models should have how many workers beforehand, first used first."""
        knows = self._outlook.knows_what_is_ready()
        uses = [
            (self._outlook.model_next_use_s(model), number, model)
            for number, model in enumerate(self._models.values())
            if self._is_worth_it(model) and (knows or not model.is_foretold)
        ]
        return [
            (model, self._outlook.workers_ahead(model, most + len(model.alive)))
            for next_use_s, _, model in sorted(uses, key=lambda use: use[:2])
            if next_use_s < math.inf
        ]

    def _end_needless(self, now_s: float) -> None:
        """End an idle worker whose model has no job left: another is to be loaded there."""
        for worker in self._lifecycle.idle_on_gpus.values():
            since_s = worker.idle_since_s
            if not worker.is_feedable or since_s is None:
                continue
            is_left = now_s - since_s >= NOBODYS_S and self._outlook.is_nobodys(worker.model)
            if is_left or self._outlook.is_over(worker.model):
                self._lifecycle.stop(worker, "no job of its model is left")
                return

    def free_gpus(self) -> list[Device]:
        """Return the GPUs that nobody is on, other runs included."""
        gpus = [device for device in self._allocator.devices if is_gpu(device)]
        users = self._allocator.allocation_map() if gpus else {}
        is_foreign = self._allocator.is_foreign
        return [gpu for gpu in gpus if not users.get(gpu.name) and not is_foreign(gpu)]

    def _has_place(self, model: Model) -> bool:
        request = self._lifecycle.request_of(model, "ahead")
        suited = (device for device in self.free_gpus() if suits(request, device))
        return fit_one_process(suited, model.spec.count)

    def _is_in_row(self, model: Model) -> bool:
        """Whether a process has it, or is about to, side by side with others."""
        part = model.ident, model.tool.ref
        return any(part in row.parts and row.alive for row in self._models.rows())

    def _is_worth_it(self, model: Model) -> bool:
        if not is_gpu(model.spec) or model.waiting or model.in_flight:
            return False
        if model.error is not None or model.is_chain or model.is_barred_ahead:
            return False
        weighs = model.is_foretold or self._outlook.weighs(model)
        can_wait = model.info.persistent and weighs and not self._is_in_row(model)
        return can_wait and not self._blame_tracker.is_suspect(model)
