"""Turns the items that were read of a job into work for its model. Pure decisions."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable

from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.effects import Outbox, WantItems
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.job_state import JobPhase, JobState, has_room
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.run import MergedRuns
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.notes import note_models, note_read
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.scheduling.packed import PackedItems, pieces_of
from snakemake_executor_gpupool.scheduling.results import ResultLedger, WorkItem
from snakemake_executor_gpupool.tool_api.short_requests import is_short
from snakemake_executor_gpupool.wire.messages import ItemsRead


class Intake:
    """Finds the work item of each item that was read; what is new goes to its model."""

    def __init__(
        self,
        jobs: JobTable,
        ledger: ResultLedger,
        dispatch: Dispatch,
        merges: MergedRuns,
        outbox: Outbox,
        outlook: Outlook,
    ) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._dispatch = dispatch
        self._merges = merges
        self._outbox = outbox
        self._outlook = outlook
        self._arrivals = 0

    def take(self, job: JobState, tool: FileWorkerPool, message: ItemsRead, now_s: float) -> None:
        """Take in some items of a job, or all: what must be computed waits for its model."""
        note_models(self._outbox, job.request.tool, message)
        model = self._model_of(job, tool, message)
        if model is None:
            return
        if job.request.loads_only:
            self._dispatch.await_model(job, model, now_s)
            return
        model.places += len(message.payloads)
        job.model = message.model.model
        if message.is_last:
            job.input_hashes = message.inputs
        job.is_brief = is_whole_and_short(job, message)
        if job.later.to_come:
            job.later.mean_cost = sum(message.costs) / max(len(message.costs), 1)
            job.asks, job.phase = True, JobPhase.COMPUTING
            self._jobs.put_off(job)
            model.large_jobs.add(job.request.job_id, job.later)
        for piece in self._pieces(job, message):
            is_full = job.backlog or not has_room(job, len(piece.keys))
            if is_full and self._jobs.has(job):
                self._put_by(job, model, piece)
            else:
                self._open(job, model, tool, piece, now_s)
        if message.is_last and job.backlog and self._jobs.has(job):
            job.phase = JobPhase.COMPUTING
        self._ask_for_more(job)

    def _pieces(self, job: JobState, message: ItemsRead) -> Iterable[ItemsRead]:
        """Divide what was read, unless all of it may be work at once and is best seen as one."""
        is_one = job.wants_results and has_room(job, len(message.keys)) and not job.backlog
        is_one = is_one and len(message.keys) <= packed.MAX_OPEN
        return [message] if is_one or job.is_brief else pieces_of(message)

    def _put_by(self, job: JobState, model: Model, piece: ItemsRead) -> None:
        """Keep items of a large job, packed, until there is room for them."""
        self._jobs.put_off(job, PackedItems(piece))
        model.large_jobs.add(job.request.job_id, job.later)

    def open_more(self, job: JobState, tool: FileWorkerPool, now_s: float) -> None:
        """Make work of what waits of a large job, as much as there is room for."""
        while self._jobs.has(job) and job.backlog and job.has_room_for_next:
            items = job.backlog.popleft()
            job.later.packed_cost -= items.cost if job.backlog else job.later.packed_cost
            piece = items.unpack()
            model = self._model_of(job, tool, piece)
            if model is not None:
                self._open(job, model, tool, piece, now_s)
            if job.missing and job.has_many_objects:
                return  # more with the next results
        self._ask_for_more(job)

    def _ask_for_more(self, job: JobState) -> None:
        """Have a call's caller bring more of its items, if he has some and there is room."""
        if job.asks and not job.backlog and job.has_room_for_next and self._jobs.has(job):
            job.asks = False
            self._outbox.put(WantItems(job.request.job_id))

    def _model_of(self, job: JobState, tool: FileWorkerPool, message: ItemsRead) -> Model | None:
        """Return the model of items that were read; None: no device will do, and the job fails."""
        try:
            return self._dispatch.models.of_request(job.request, tool, message.model)
        except ImpossibleRequest as error:
            self._jobs.fail(job, f"{job.request.title}: {error}")
            self._ledger.discard(*message.payloads)
            return None

    def _open(
        self, job: JobState, model: Model, tool: FileWorkerPool, message: ItemsRead, now_s: float
    ) -> None:
        """Make work of a piece of what was read."""
        if not self._jobs.has(job):
            self._ledger.discard(*message.payloads)
            return
        # Not once for all pieces: those of groups without items are forgotten now and then.
        self._dispatch.models.know_params(model, message.model.group, job.request.params)
        claimed = self._ledger.claimed
        new = self._jobs.place(job, self._items_of(job, tool, message))
        job.claimed += self._ledger.claimed - claimed
        read = job.items[-len(message.keys) :] if message.keys else []
        job.cost_read += sum([item.cost for item in read if item.result is None])
        if message.is_last:
            note_read(self._outbox, job, model.name)
            self._outlook.job_read(job.request, model, job.cost_read)
        may_merge = job.is_brief and (job.request.follow or job.place is not None)
        if may_merge and self._merges.take(job, model, tool, message, new, now_s):
            return
        if new:
            self._dispatch.add(model, new, now_s)
        if message.is_last and self._jobs.has(job):
            if job.claimed and not job.missing:
                self._merges.saved(job)
            self._jobs.read_complete(job)

    def _items_of(self, job: JobState, tool: FileWorkerPool, message: ItemsRead) -> list[WorkItem]:
        """Return a work item for each item read, with the result that an earlier run left."""
        assert tool.info is not None
        space, model, group = job.request.space, message.model.model, message.model.group
        level = -job.request.priority, 0 if job.is_brief else 1
        first = self._arrivals + 1
        self._arrivals += len(message.keys)
        keys: Iterable[Hashable] = itertools.repeat(None, len(message.keys))
        if tool.info.deterministic:  # as ``result_key`` does
            keys = [(space, model, group, key) for key in message.keys]
        columns = keys, message.costs, message.tokens, message.payloads, message.names
        items = [
            WorkItem(key, group, cost, tokens, payload, name, level, arrival)
            for arrival, (key, cost, tokens, payload, name) in enumerate(
                zip(*columns, strict=True), first
            )
        ]
        for place in sorted(message.kept):
            item = items[place]
            item.payload, item.result = b"", item.payload
        return items


def is_whole_and_short(job: JobState, message: ItemsRead) -> bool:
    """Tell whether a job is short, all of whose items have come at once."""
    if not message.is_last or job.items or job.settled or job.backlog:
        return False
    tokens, most_tokens = message.tokens, message.model.short_tokens
    if len({*message.keys}) < len(tokens):
        tokens = tuple(dict(zip(message.keys, tokens, strict=True)).values())
    return is_short(tokens, most_tokens)
