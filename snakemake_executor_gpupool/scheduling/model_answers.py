"""What processes that hold models answer. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable

from snakemake_executor_gpupool.scheduling.merging.run import MergedRuns
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.model_messages import BatchDone, Loaded, StageDone


class ModelAnswers:
    """One method for each answer.

    Parameters
    ----------
    settle
        The last step of each: the scheduler reacts to what its parts have appended.
    """

    def __init__(
        self, dispatch: Dispatch, merges: MergedRuns, settle: Callable[[float], None]
    ) -> None:
        self._dispatch = dispatch
        self._merges = merges
        self._settle = settle

    def batch_done(
        self, worker_id: str, message: BatchDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has computed its oldest micro-batch."""
        self._dispatch.batch_done(worker_id, message, now_s, energy_j)
        self._settle(now_s)

    def stage_done(
        self, worker_id: str, message: StageDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has finished one stage of a dispatch of merged runs."""
        worker = self._dispatch.worker(worker_id)
        self._merges.stage_done(worker, message, now_s, energy_j)
        if message.is_last:
            self._dispatch.chains_done(worker_id, now_s, message.peak_mib)
        self._settle(now_s)

    def loaded(self, worker_id: str, message: Loaded, now_s: float) -> None:
        """A worker has its model on its devices."""
        self._dispatch.lifecycle.loaded(worker_id, message, now_s)
        self._settle(now_s)

    def load_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """A model cannot be loaded."""
        self._dispatch.load_failed(worker_id, error, now_s)
        self._settle(now_s)

    def moved(self, worker_id: str, is_away: bool, now_s: float) -> None:
        """A worker's weights are in host memory, or back on its devices."""
        self._dispatch.lifecycle.moved(worker_id, is_away, now_s)
        self._settle(now_s)

    def move_failed(self, worker_id: str, error: WorkerError, now_s: float) -> None:
        """A worker's weights could not be moved."""
        self._dispatch.lifecycle.move_failed(worker_id, error, now_s)
        self._settle(now_s)
