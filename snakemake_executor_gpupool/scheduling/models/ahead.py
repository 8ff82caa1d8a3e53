"""Loads models before there is work for them, on devices that nobody else needs. Pure decisions."""

from __future__ import annotations

import math

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.blame import BlameTracker
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.scaling import WorkerScaling
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import Outlook


class LoadAhead:
    """Has the model that is used next loaded on a free device.

    Its worker is idle from the start, so that whoever is ready gets its device at once.
    """

    def __init__(
        self,
        allocator: Allocator,
        models: ModelTable,
        lifecycle: WorkerLifecycle,
        scaling: WorkerScaling,
        outlook: Outlook,
        blame_tracker: BlameTracker,
    ) -> None:
        self._allocator = allocator
        self._models = models
        self._lifecycle = lifecycle
        self._scaling = scaling
        self._outlook = outlook
        self._blame_tracker = blame_tracker

    def look(self, now_s: float) -> None:
        """Load what is used next, as far as devices are free and nobody waits for one."""
        if self._allocator.is_wanted_by_others(None):
            return
        uses = [
            (self._outlook.model_next_use_s(model), number, model)
            for number, model in enumerate(self._models.values())
            if self._is_worth_it(model)
        ]
        for next_use_s, _, model in sorted(uses, key=lambda use: use[:2]):
            if next_use_s < math.inf and self._scaling.free_places(model) > 0:
                self._lifecycle.ask(model, now_s, ahead=True)

    def _is_worth_it(self, model: Model) -> bool:
        if model.alive or model.waiting or model.error is not None or model.is_chain:
            return False
        can_wait = is_gpu(model.spec) and model.info.persistent
        return can_wait and not self._blame_tracker.is_suspect(model)
