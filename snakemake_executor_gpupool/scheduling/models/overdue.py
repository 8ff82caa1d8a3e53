"""Which workers end because of time alone: they hang, idle too long, or are done with. Pure."""

from __future__ import annotations

import enum

from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.outlook import Outlook

#: So long without work a worker is kept whose model has no job left: one may be tried again.
GRACE_S = 5.0


class Overdue(enum.Enum):
    """Why a worker ends; the value is the reason that the event log gets."""

    HANGS = "hung"
    IDLE = "idle"
    DONE_WITH = "no job of its model is left"


class OverdueWorkers:
    """Looks at one worker after the other.

    Parameters
    ----------
    idle
        After how long without work a worker is ended.
    batch_limit_factor, load_limit_s
        As in ``DispatchConfig``.
    jobs
        Knows how long those wait that a micro-batch is for.
    outlook
        Knows which models get no job any more.
    """

    def __init__(
        self,
        idle: IdleTime,
        batch_limit_factor: float,
        load_limit_s: float,
        jobs: JobTable,
        outlook: Outlook,
    ) -> None:
        self._idle = idle
        self._batch_limit_factor = batch_limit_factor
        self._load_limit_s = load_limit_s
        self._jobs = jobs
        self._outlook = outlook

    def why(self, worker: ModelWorker, now_s: float) -> Overdue | None:
        """Return why a worker should end now; None: it need not."""
        if self._is_hung(worker, now_s):
            return Overdue.HANGS
        if self._is_idle_too_long(worker, now_s):
            return Overdue.IDLE
        return Overdue.DONE_WITH if self._is_done_with(worker, now_s) else None

    def _is_idle_too_long(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether nobody has wanted it for long, wherever its weights are."""
        is_at_rest = worker.stage in (Stage.READY, Stage.AWAY)
        if worker.idle_since_s is None or not is_at_rest or worker.model.waiting:
            return False
        return now_s - worker.idle_since_s >= self._idle.of(worker.model.load_s)

    def _is_done_with(self, worker: ModelWorker, now_s: float) -> bool:
        """Whether no job of its model will come, and none has for a while."""
        if worker.idle_since_s is None or now_s - worker.idle_since_s < GRACE_S:
            return False
        idle = worker.is_feedable and not worker.model.waiting
        return idle and self._outlook.is_over(worker.model)

    def _is_hung(self, worker: ModelWorker, now_s: float) -> bool:
        if worker.stage in (Stage.STARTING, Stage.LOADING, Stage.CHECKING, Stage.MOVING):
            return now_s - worker.since_s > self._load_limit_s
        if worker.stage is not Stage.READY or not worker.in_flight:
            return False
        batch = worker.in_flight[0]
        expected_s = worker.model.speed.seconds(batch.cost) or 0.0
        # One beyond the budget was thought to be quick; if it is not, it is several.
        times = max(worker.model.batch_tokens(batch) / (worker.model.budget_tokens or 1), 1.0)
        least_s = worker.model.info.batch_limit_s * times
        limit_s = max(least_s, self._batch_limit_factor * expected_s)
        if worker.model.is_chain and not worker.has_all_stages:
            # It may load the models of later stages meanwhile.
            return now_s - batch.sent_s > limit_s + self._load_limit_s
        return now_s - batch.sent_s > min(limit_s, self._jobs.patience_s(batch.items) * times)
