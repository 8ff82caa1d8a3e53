"""Which idle workers keep their devices for a moment, although another model waits. Pure decisions.

A worker whose own jobs come before another model could be loaded is worth waiting for, but not for
longer than a share of what its load takes. On the CPU no model makes room for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.models.due import DueModels
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.wire.requests import Request

#: So long a worker is kept whose next jobs are a moment away.
KEPT_S = 1.0
#: But for no longer than this share of a load.
KEPT_SHARE = 0.25
#: For this share of a load it is waited for a worker of another model, which is hardly missed.
SPARED_SHARE = 0.1


class KeptWorkers:
    """Keeps workers that will have work in a moment."""

    def __init__(
        self, allocator: Allocator, lifecycle: WorkerLifecycle, outlook: Outlook, due: DueModels
    ) -> None:
        self._allocator = allocator
        self._lifecycle = lifecycle
        self._outlook = outlook
        self._due = due

    def expect(self, request: Request, now_s: float) -> None:
        """A job is about to be read: a worker that idles, and will compute it, idles no more.

        Else others whose files are read first would get its device, and it theirs.
        """
        model = self._outlook.model_of(request)
        if model is None or not is_gpu(model.spec) or not self._outlook.weighs(model):
            return
        for worker in model.workers.values():
            idles = worker.is_feedable and worker.idle_since_s is not None
            if idles and not worker.is_ahead:
                self._lifecycle.busy(worker, now_s)
                worker.spare_since_s = now_s
                self._due.keeps(model, now_s + limit_s(model))
                return

    def not_kept(
        self, model: Model, workers: Sequence[ModelWorker], now_s: float
    ) -> Sequence[ModelWorker]:
        """Return those of a model's workers that may rest if they have nothing to do."""
        if model.waiting or not model.info.persistent or not is_gpu(model.spec):
            return workers
        if model.is_chain:
            return [worker for worker in workers if not self._goes_on(worker, now_s)]
        if not (self._outlook.is_known and self._outlook.weighs(model)):
            return workers
        return [worker for worker in workers if not self._is_kept(worker, now_s)]

    def _goes_on(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether jobs come in a moment for which the next model of a row is being loaded."""
        if not worker.is_by_stage or worker.has_all_stages or worker.in_flight:
            return False
        if worker.spare_since_s is None:
            worker.spare_since_s = now_s
        left_s = limit_s(worker.model) - (now_s - worker.spare_since_s)
        if left_s > 0.0:
            self._due.keeps(worker.model, now_s + left_s)
        return left_s > 0.0

    def _is_kept(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether a worker has nothing to do, but jobs that come before another could be loaded."""
        is_idle = worker.idle_since_s is not None or worker.is_ahead
        if not worker.is_feedable or worker.in_flight or is_idle:
            return False
        if worker.spare_since_s is None:
            worker.spare_since_s = now_s
        spare_s = now_s - worker.spare_since_s
        left_s = limit_s(worker.model) - spare_s
        if left_s <= 0.0 or self._outlook.model_next_use_s(worker.model) > left_s:
            left_s = SPARED_SHARE * (worker.model.load_s or 0.0) - spare_s
            if left_s <= 0.0 or not self._is_spared(worker, left_s, now_s):
                return False
        self._due.keeps(worker.model, now_s + left_s)
        return True

    def _is_spared(self, worker: ModelWorker, within_s: float, now_s: float) -> bool:
        """Whether a model's only worker, needed again, is not the one to go.

        Somebody wants its device, and would soon find one of another model's many as good.
        """
        model = worker.model
        if any(other.is_feedable for other in model.alive if other is not worker):
            return False
        if not self._allocator.is_wanted_by_others(model.key):
            return False
        if self._outlook.model_next_use_s(model) == math.inf:
            return False
        others = {w.model.key: w.model for w in self._lifecycle.workers.values()}
        return any(
            self._outlook.spares_one(other, within_s, now_s)
            for other in others.values()
            if other is not model and other.spec == model.spec
        )


def limit_s(model: Model) -> float:
    """Return for how long a model's worker is kept, in seconds."""
    return min(KEPT_S, KEPT_SHARE * (model.load_s or 0.0))
