"""Jobs that nobody wants any longer, and tools of which no more jobs will come. Pure decisions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from snakemake_executor_gpupool.scheduling.effects import Outbox, StopWorker
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.job_state import JobPhase, JobState
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.run import MergedRuns
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Stage
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: Why a process of a tool that was retired is ended.
RETIRED = "no more jobs of its tool will come"
#: How long a merged run may take to finish a job that nobody wants; then its worker is ended.
PATIENCE_S = 2.0
#: Why a process is ended that was to write what nobody wants.
UNWANTED = "its job is not wanted any longer"


class Retirement:
    """Ends single jobs before their time, and forgets tools that are out of use."""

    def __init__(
        self,
        jobs: JobTable,
        files: FileScheduler,
        dispatch: Dispatch,
        merges: MergedRuns,
        ledger: ResultLedger,
        outbox: Outbox,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._dispatch = dispatch
        self._merges = merges
        self._ledger = ledger
        self._outbox = outbox
        #: Values mean nothing; a dict has an order.
        self._retired: dict[ToolRef, None] = {}
        #: Of unwanted jobs that a merged run may write: how long that is waited for.
        self._patience_until_s: dict[int, float] = {}

    # -- one job ---------------------------------------------------------------------
    def unwanted(self, job: JobState, reason: str | None, now_s: float) -> None:
        """Fail a job; without a reason, withdraw it unless it has begun.

        None of its outputs appears once that is reported. What is computed for it goes on if
        another job waits for it, too, or a worker has it.
        """
        if reason is None:
            if not job.has_begun and job not in self._merges.held_jobs():
                self._withdraw(job, now_s)
            return
        if self._merges.writer_of(job) is not None:
            # It writes by itself, soon: unless it takes too long, that is waited for.
            job.unwanted = reason
            self._patience_until_s[job.request.job_id] = now_s + PATIENCE_S
            return
        writer = self._files.writer_of(job)
        if writer is not None:
            job.unwanted = reason
            if not writer.is_ending:
                writer.is_ending = True
                self._outbox.put(StopWorker(writer.worker_id, UNWANTED, force=True))
            return
        items = [item for item in job.items if not item.is_done]
        self._jobs.fail(job, f"{job.request.title}: {reason}")
        self._drop(job, items, now_s)

    def _withdraw(self, job: JobState, now_s: float) -> None:
        items = [item for item in job.items if not item.is_done]
        self._jobs.withdraw(job)
        self._drop(job, items, now_s)

    def _drop(self, job: JobState, items: Iterable[WorkItem], now_s: float) -> None:
        """Forget what only a job that has ended was waiting for."""
        gone = [item for item in items if not item.waiters]
        if gone and job.phase is JobPhase.COMPUTING:
            for model in list(self._dispatch.models.of_ident(job.model)):
                self._dispatch.drop(model, gone, now_s)

    # -- a tool ------------------------------------------------------------------------
    def retire(self, ref: ToolRef, now_s: float) -> None:
        """End a tool's processes once they have nothing to do, and then forget it."""
        self._retired[ref] = None
        self.tick(now_s)

    def wanted(self, request: Request) -> None:
        """A job has come: its tool is not out of use, nor are those of the jobs that follow."""
        for each in (request, *request.follow) if self._retired else ():
            self._retired.pop(each.tool, None)

    def next_wake_s(self, now_s: float) -> float:
        """Return when :meth:`tick` is next worth a call."""
        return min(self._patience_until_s.values(), default=math.inf)

    def _lose_patience(self, now_s: float) -> None:
        """End the workers of merged runs that are still at a job that nobody wants."""
        due = [job_id for job_id, until_s in self._patience_until_s.items() if until_s <= now_s]
        for job_id in due:
            del self._patience_until_s[job_id]
            job = self._jobs.get(job_id)
            worker = self._merges.writer_of(job) if job is not None and job.unwanted else None
            if worker is not None:
                self._dispatch.lifecycle.stop(worker, UNWANTED, force=True)

    def wake(self, now_s: float) -> None:
        """End the workers that have taken too long."""
        self._lose_patience(now_s)

    def tick(self, now_s: float) -> None:
        """End and forget what has nothing to do any longer."""
        self._lose_patience(now_s)
        if not self._retired:
            return
        in_use = self._jobs.tools()
        for ref in [ref for ref in self._retired if ref not in in_use]:
            models = [m for m in self._dispatch.models.values() if ref in tools_of(m)]
            for model in models:
                self._end_model(model, now_s)
            tool = self._files.known(ref)
            if tool is not None:
                self._end_files(tool)
            is_over = not any(model.workers for model in models)
            if is_over and (tool is None or not tool.workers):
                for model in models:
                    self._dispatch.models.remove(model)
                still = {model.ident for model in self._dispatch.models.values()}
                gone = {model.ident for model in models}
                self._ledger.forget_models(gone - still)
                self._files.forget(ref)
                self._retired.pop(ref, None)

    def _end_model(self, model: Model, now_s: float) -> None:
        self._dispatch.drop(model, [item for item in model.queue if not item.waiters], now_s)
        self._dispatch.lifecycle.withdraw_asking(model, now_s)
        for worker in model.alive:
            if worker.stage is Stage.ASKING:
                self._dispatch.lifecycle.step_back(worker, now_s)
            if not worker.in_flight and worker.stage is not Stage.CLAIMING:
                self._dispatch.lifecycle.stop(worker, RETIRED)

    def _end_files(self, tool: FileWorkerPool) -> None:
        for worker in tool.workers.values():
            self._files.end_idle(worker, RETIRED)


def tools_of(model: Model) -> list[ToolRef]:
    """Return the tools that a model, or each of those in a row, is of."""
    if model.is_chain:
        return [ref for _, ref in model.parts]
    return [model.tool.ref]
