"""Workers that were started before there was work for them, once there is some. Pure decisions.

What such a worker has read may have changed since: the jobs that the first one waited for were
still running. So it is asked first, and only if all is as it was it is one like others.
"""

from __future__ import annotations

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents, WorkerSettled
from snakemake_executor_gpupool.scheduling.effects import CheckWorker, Outbox
from snakemake_executor_gpupool.scheduling.files.ahead import CHANGED
from snakemake_executor_gpupool.scheduling.models.lifecycle import WorkerLifecycle
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage

#: Why a worker that has loaded ahead is ended.
GUESSED = "its jobs ask for other memory than was guessed"


class Provisional:
    """Makes workers that have loaded ahead ordinary ones, or ends them."""

    def __init__(
        self,
        lifecycle: WorkerLifecycle,
        allocator: Allocator,
        outbox: Outbox,
        events: DomainEvents,
    ) -> None:
        self._lifecycle = lifecycle
        self._allocator = allocator
        self._outbox = outbox
        self._events = events

    def promote(self, model: Model, now_s: float) -> None:
        """There is work for what was loaded ahead: nobody else may take its devices."""
        for worker in list(model.workers.values()):
            if worker.is_ahead and worker.stage is not Stage.STOPPING:
                self._is_wanted(worker, now_s)
            if worker.is_provisional and worker.is_feedable:
                self._lifecycle.busy(worker, now_s)
                worker.stage, worker.since_s = Stage.CHECKING, now_s
                self._outbox.put(CheckWorker(worker.worker_id, (model.params,), model.ident))

    def _is_wanted(self, worker: ModelWorker, now_s: float) -> None:
        worker.is_ahead = False
        if worker.vram_mib != worker.model.vram_mib:
            if worker.stage in (Stage.ASKING, Stage.CLAIMING):
                self._lifecycle.step_back(worker, now_s)
            else:
                self._lifecycle.stop(worker, GUESSED)
        elif worker.stage in (Stage.STARTING, Stage.LOADING):
            self._allocator.busy(worker.worker_id, now_s)
        elif worker.stage in (Stage.ASKING, Stage.CLAIMING):
            worker.is_provisional = False

    def checked(self, worker_id: str, *, holds: bool, now_s: float) -> None:
        """A worker that has loaded ahead has said whether it is as good as any."""
        worker = self._lifecycle.workers[worker_id]
        if worker.stage is not Stage.CHECKING:  # it is being stopped
            return
        worker.is_provisional = False
        if holds:
            self._lifecycle.ready(worker, now_s)
        else:
            worker.model.is_barred_ahead = True
            self._lifecycle.stop(worker, CHANGED)
            self._events.append(WorkerSettled(worker_id))
