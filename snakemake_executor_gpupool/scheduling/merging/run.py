"""Short requests through a row of models in one dispatch. Pure decisions.

::

    A's items are read ─► short, and the models fit side by side? ─► one dispatch runs A, B, C
    stage A answered   ─► A's job is done, its outputs are in place
    stage B answered   ─► B's outputs are staged, and the ledger keeps its results, by content
    B's job arrives    ─► waits until its stage is answered; it is the one that was guessed, and
                          its inputs are what was read? ─► its outputs are published
                          else it is read as any job, and may still find results

A row of models is a model of its own whose worker holds all of them. What goes wrong with one, in
whatever way, only ends the merged run: what is left of it goes the ordinary way, stage by stage.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from snakemake_executor_gpupool.scheduling.effects import Outbox, Unstage
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.job_state import JobPhase, JobState
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.by_stage import ByStage, by_requests
from snakemake_executor_gpupool.scheduling.merging.choice import MergeChoice
from snakemake_executor_gpupool.scheduling.merging.select import MergeSelection
from snakemake_executor_gpupool.scheduling.merging.stage import (
    MergedRequest,
    MergedStage,
    Place,
    merged_of,
    merged_request,
)
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import (
    Identity,
    StagedOutputs,
    StagedTable,
    Unwritten,
)
from snakemake_executor_gpupool.scheduling.models.charging import work_of
from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.wire.frames import Blob, blobs_size
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.model_messages import StageDone, StagedRequest


class MergedRuns:
    """All merged requests, and the jobs that wait for theirs.

    Attributes
    ----------
    counts
        ``merged`` requests, and dispatches ``saved``.
    """

    def __init__(
        self,
        selection: MergeSelection,
        choice: MergeChoice,
        by_stage: ByStage,
        dispatch: Dispatch,
        files: FileScheduler,
        jobs: JobTable,
        ledger: ResultLedger,
        outbox: Outbox,
    ) -> None:
        self._selection = selection
        self._choice = choice
        self._by_stage = by_stage
        self._dispatch = dispatch
        self._files = files
        self._jobs = jobs
        self._ledger = ledger
        self._outbox = outbox
        # By the identity of a job yet to come, and of one that has come.
        self._expected: dict[Identity, MergedRequest] = {}
        self._held: dict[Identity, JobState] = {}
        self._staged = StagedTable()
        self._merge_ids = 0
        self.counts: Counter[str] = Counter()

    # -- jobs --------------------------------------------------------------------
    def arrived(self, job: JobState, now_s: float) -> None:
        """Have a job done that is ready, unless a merged run is about to bring what it needs."""
        identity = job.request.identity
        job.goes_apart = self._choice.goes_apart(job.request, is_alone=len(self._jobs) == 1)
        job.place = self._by_stage.place_of(job.request)
        if identity in self._expected and identity not in self._held:
            self._held[identity] = job
            return
        staged = self._staged.take(identity)
        if staged is not None and staged.is_for(job.request) and self._files.known(staged.tool):
            self._files.publish(job, staged, now_s)
            return
        if staged is not None:
            self._drop(staged)
        self._files.read(job, now_s)

    def _drop(self, staged: StagedOutputs) -> None:
        """Nobody wants what was made for a job."""
        self._ledger.release(*staged.held)
        self._outbox.put(Unstage.of(staged))

    def published(self, job: JobState) -> None:
        """A job's outputs are in place, without a dispatch of its own."""
        staged = job.staged
        assert staged is not None
        job.seconds += staged.seconds
        job.cost.take(staged.cost)
        self._dispatch.charging.time.claimed(staged.cost.device_s)
        unique = self._ledger.unique
        self._ledger.claim(staged.keys, staged.items)
        job.duplicates += staged.items - (self._ledger.unique - unique)
        self.saved(job)
        self._jobs.succeed(job)

    def take(
        self,
        job: JobState,
        home: Model,
        tool: FileWorkerPool,
        message: ItemsRead,
        new: list[WorkItem],
        now_s: float,
    ) -> bool:
        """Send a short job through the models of its row, if it has one and may go now.

        Parameters
        ----------
        new
            Those of its items that nobody has asked for before.

        Returns
        -------
        bool
            Whether it is merged; else it goes the ordinary way.
        """
        if job.goes_apart:
            return False
        parts = list(dict.fromkeys(job.items))
        fresh = set(new)
        # What waits in a queue, or is in flight, is left there and waited for.
        is_free = all(item in fresh or item.is_done or item.is_merged for item in parts)
        if home.error is not None or not fresh or not is_free:
            if not fresh and job.place is None:
                self._by_stage.waits_for_others(job.request, home)
            return False
        selected = None
        if job.place is not None:
            selected = self._selection.in_row(job.place, job.request, tool, message)
        if selected is None and job.request.follow:
            selected = self._selection.select(job.request, home, tool, message)
        if selected is None:
            return False
        stages, model, offset = selected
        for item in parts:
            item.merged_runs += 1
        self._merge_ids += 1
        models = home.key, Place(model.key, offset)
        merged = merged_request(self._merge_ids, stages, *models, parts, job.items, job.names)
        job.all_read, job.phase, job.merge_id = True, JobPhase.MERGED, merged.merge_id
        model.places += len(job.items)
        self._expected.update((stage.request.identity, merged) for stage in stages[1:])
        self._dispatch.add(model, [merged], now_s)
        return True

    def shorten(self, worker: ModelWorker, requests: Sequence[MergedRequest], now_s: float) -> bool:
        """Have a dispatch that is about to be sent end after its first stage, if that is better.

        Return whether the next stage's model is to be loaded then, as no others come before.
        """
        row = worker.model
        if not self._by_stage.ends_early(worker, requests[0]):
            return False
        for merged in requests:
            later, merged.stages = merged.stages[1:], merged.stages[:1]
            self._by_stage.expect(merged.request, row, merged.offset)
            for stage in later:
                self._let_go(merged, stage, now_s)
        offset = requests[0].offset
        tool = self._files.known(requests[0].request.tool)
        return self._by_stage.is_last_for_now(row, offset, tool or row.tool)

    def _job_of(self, merged: MergedRequest) -> JobState | None:
        """Return the first stage's job; None if it has ended, even if its number is used again."""
        job = self._jobs.get(merged.request.job_id)
        return job if job is not None and job.merge_id == merged.merge_id else None

    # -- answers -----------------------------------------------------------------------
    def stage_done(
        self, worker: ModelWorker, message: StageDone, now_s: float, energy_j: float | None = None
    ) -> None:
        """A worker has finished one stage of those requests that its message names."""
        batch = worker.in_flight[0]
        if message.computed is not None:
            message, left = by_requests(message, batch)
            self._ledger.discard(*left)
        if message.load_s is not None:
            self._outbox.note(
                "stage_loaded",
                worker=worker.worker_id,
                stage=message.stage,
                seconds=round(message.load_s, 3),
                versions=dict(message.versions),
            )
        if message.requests or message.load_s is not None:
            worker.loaded_stages.add(message.stage)
        if message.is_lost:
            worker.model.merged.lost_stages.add(message.stage)
        self._choice.stage_done(worker.model, message)
        batch.stages_done += 1
        batch.seconds += message.seconds
        results = iter(message.results)
        staged_of = {staged.number: staged for staged in message.requests}
        work = work_of(worker, message.seconds, message.peak_mib, energy_j)
        shares = self._dispatch.charging.stage_done(worker, message.requests, work)
        for number, merged in enumerate(merged_of(batch.items)):
            staged = staged_of.get(number)
            if staged is not None:
                result_of = {key: next(results) for key in staged.keys}
                share_s = message.seconds / len(staged_of)
                self._answered(merged, staged, result_of, share_s, worker, now_s, shares[number])
            elif not merged.is_over:
                self._ends_early(worker.model, merged, now_s)
        self._reconsider(worker.model, now_s)

    def _ends_early(self, row: Model, merged: MergedRequest, now_s: float) -> None:
        if not merged.stages_done:
            self._goes_apart(row, merged)
        self.dissolve(merged, now_s)

    def _goes_apart(self, row: Model, merged: MergedRequest) -> None:
        self._by_stage.expect_none(merged)
        self._choice.goes_job_by_job(row, merged.request, merged.offset)

    def _reconsider(self, row: Model, now_s: float) -> None:
        """Have requests that wait for a row go job by job, if that is better by what is known.

        So do those that begin at a stage whose model could not be loaded.
        """
        waiting = defaultdict[int, list[MergedRequest]](list)
        for merged in merged_of(row.queue):
            waiting[merged.offset].append(merged)
        for offset, requests in waiting.items():
            is_lost = offset in row.merged.lost_stages
            if not is_lost and self._choice.still_pays(row, requests[0]):
                continue
            for merged in requests:
                self._goes_apart(row, merged)
            self._end_waiting(row, requests, now_s)

    def _end_waiting(self, row: Model, waiting: list[MergedRequest], now_s: float) -> None:
        for merged in waiting:
            self.ended(merged, now_s)
        self._dispatch.drop(row, waiting, now_s)

    def _answered(
        self,
        merged: MergedRequest,
        staged: StagedRequest,
        result_of: dict[str, Blob],
        share_s: float,
        worker: ModelWorker,
        now_s: float,
        cost: JobCost,
    ) -> None:
        number = merged.stages_done
        stage = merged.stages[number]
        merged.stages_done += 1
        merged.is_over = merged.stages_done == len(merged.stages)
        name = worker.worker_id
        first_id = merged.request.job_id
        batch_id = worker.in_flight[0].batch_id
        named = {"job": stage.request.title, "job_id": first_id, "batch": batch_id}
        if not merged.is_single:
            self._outbox.note("stage_done", **named, stage=merged.offset + number, worker=name)
        if number == 0:
            self._first_done(merged, list(result_of.values()), share_s, worker, staged.written)
            return
        outputs = self._outputs_of(merged, stage, staged, result_of, worker, share_s, cost)
        for dropped in [outputs] if merged.is_unclaimed else self._staged.add(outputs):
            self._drop(dropped)
        if stage.request.identity in self._held and len(worker.in_flight[0].items) > 1:
            self._choice.waited(worker.model)
        self._let_go(merged, stage, now_s)

    def _outputs_of(
        self,
        merged: MergedRequest,
        stage: MergedStage,
        staged: StagedRequest,
        result_of: dict[str, Blob],
        worker: ModelWorker,
        seconds: float,
        cost: JobCost,
    ) -> StagedOutputs:
        """Return what was made for a stage's job, which is yet to come; its results are kept."""
        batch_id, tool, unwritten = worker.in_flight[0].batch_id, merged.request.tool, None
        keys = [(*stage.key_head, key) for key in result_of]
        results = list(zip(keys, result_of.values(), strict=True))
        size_bytes = staged.size_bytes
        if staged.order is None:
            for key, blob in results:
                self._ledger.offer(key, blob, batch_id)
        else:
            items = tuple(self._ledger.hold(key, blob, batch_id) for key, blob in results)
            unwritten = Unwritten(items, staged.order, staged.names, worker.worker_id)
            size_bytes += blobs_size(unwritten.blobs)
        return StagedOutputs(
            stage.request,
            tool,
            *(staged.digests, staged.outputs, staged.logs, keys, staged.items, size_bytes),
            seconds=seconds,
            node=worker.node,
            cost=cost,
            batch_id=batch_id,
            unwritten=unwritten,
            model=stage.model,
        )

    def _first_done(
        self,
        merged: MergedRequest,
        results: list[Blob],
        share_s: float,
        worker: ModelWorker,
        hashes: tuple[str, ...],
    ) -> None:
        merged.waiters = ()
        merged.let_go_of_parts()
        job = self._job_of(merged)
        if merged.is_single and job is not None:
            self._jobs.go_on(job)
        for item, blob in zip(merged.parts, results, strict=True):
            if item.is_done:
                self._ledger.discard(blob)
            else:
                seconds = share_s / len(results)
                item.batch_id = worker.in_flight[0].batch_id
                self._jobs.items_done([item], [blob], worker.worker_id, worker.node, seconds)
        if merged.is_single:
            return
        self.counts["merged"] += 1
        if job is not None:
            job.output_hashes = hashes
            self._jobs.succeed(job)

    def ended(self, item: WorkItem, now_s: float) -> None:
        """A merged run is no longer waiting or in flight: its rest goes the ordinary way."""
        assert isinstance(item, MergedRequest)
        if not item.is_over:
            self.dissolve(item, now_s)

    def dissolve(self, merged: MergedRequest, now_s: float) -> None:
        """Compute what is left of a merged run the ordinary way."""
        merged.is_over = True
        merged.waiters = ()
        if merged.stages_done == 0:
            self._dispatch_apart(merged, now_s)
        for stage in merged.stages[max(merged.stages_done, 1) :]:
            self._let_go(merged, stage, now_s)

    def held_jobs(self) -> set[JobState]:
        """Return the jobs that wait for what a merged run is about to bring."""
        return set(self._held.values())

    def writer_of(self, job: JobState) -> ModelWorker | None:
        """Return the worker that has a job, and may write its outputs; None: none has."""
        if job.phase is JobPhase.MERGED:
            for worker, merged in self._in_flight():
                is_its = self._job_of(merged) is job and not merged.stages_done
                if is_its and not merged.is_single:
                    return worker
        return None

    def _in_flight(self) -> Iterator[tuple[ModelWorker, MergedRequest]]:
        for model in self._dispatch.models.rows():
            for worker in model.workers.values():
                for batch in worker.in_flight:
                    for merged in merged_of(batch.items):
                        yield worker, merged

    def forget_run(self, run: str) -> None:
        """None of a run's jobs will come: nothing is kept for them."""
        for staged in self._staged.forget(run):
            self._ledger.release(*staged.held)
        self._choice.forget_run(run)
        self._by_stage.forget_run(run)
        for _, merged in self._in_flight():
            merged.is_unclaimed |= merged.request.identity[:1] == (run,)

    def drop_unwanted(self, now_s: float) -> None:
        """End the merged runs whose first job has ended, and which no worker has."""
        for model in self._dispatch.models.rows():
            gone = [merged for merged in merged_of(model.queue) if self._job_of(merged) is None]
            self._end_waiting(model, gone, now_s)

    def _dispatch_apart(self, merged: MergedRequest, now_s: float) -> None:
        """Have a request's first stage computed by its own model."""
        merged.let_go_of_parts()
        job = self._job_of(merged)
        if job is not None and job.unwanted:
            self._jobs.fail(job, f"{job.request.title}: {job.unwanted}")
        # What another merged run has, too, is waited for.
        apart = [item for item in merged.parts if not item.is_merged and not item.is_done]
        self._dispatch.failures.abandon(item for item in apart if not item.waiters)
        wanted = [item for item in apart if item.waiters]
        job = self._job_of(merged)
        if job is not None:
            self._jobs.go_on(job)
        if wanted:
            self._dispatch.add(self._dispatch.models[merged.home], wanted, now_s)

    def _let_go(self, merged: MergedRequest, stage: MergedStage, now_s: float) -> None:
        """Read the job of a stage, should it have come already: nothing more of it is expected."""
        identity = stage.request.identity
        if self._expected.get(identity) is not merged:
            return
        del self._expected[identity]
        job = self._held.pop(identity, None)
        if job is not None and self._jobs.has(job):
            self.arrived(job, now_s)

    def saved(self, job: JobState) -> None:
        """A merged run had computed all that a job needs: it costs no dispatch of its own."""
        self.counts["saved"] += 1
        batch = {"batch": job.staged.batch_id} if job.staged is not None else {}
        self._outbox.note(
            "dispatch_saved", job=job.request.title, job_id=job.request.job_id, **batch
        )
