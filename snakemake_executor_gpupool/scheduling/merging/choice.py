"""Which way a short request goes: through all models of its row at once, or job by job. Pure.

:mod:`.worth` judges by numbers; this gathers them, and keeps to a decision where going back on it
would cost both: once requests of a row go job by job, so do all that come before these are done.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, MergedStage
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import Identity
from snakemake_executor_gpupool.scheduling.merging.worth import (
    NO_LIMIT_S,
    START_S,
    Case,
    item_limit_s,
    judge,
)
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.wire.model_messages import StageDone
from snakemake_executor_gpupool.wire.requests import Request

#: So often at most it is noted that requests of a row go the other way from now on.
MAX_NOTES = 20
#: So many requests at most are merged as the one before them: a stage is about to be measured.
MAX_UNJUDGED = 8


@dataclass(eq=False)
class _Row:
    """What is known of requests through one row of models that begin at the same stage."""

    #: What a later job takes longer merged, as judged last.
    excess_s: float = 0.0
    is_merged: bool | None = None
    notes: int = 0
    #: How many requests were merged since without being judged themselves.
    unjudged: int = 0


class MergeChoice:
    """Decides for one request after the other.

    Parameters
    ----------
    models, outlook
        Which models are loaded, and how many jobs will come.
    capacity
        Returns how many workers of a model there may be.
    processors, file_workers
        How many processes can compute at the same time (0: any number), and how many of a tool
        read and write files.
    """

    def __init__(
        self,
        models: ModelTable,
        outlook: Outlook,
        outbox: Outbox,
        capacity: Callable[[Model], int],
        processors: int = 0,
        file_workers: int = 1,
    ) -> None:
        self._models = models
        self._outlook = outlook
        self._outbox = outbox
        self._capacity = capacity
        self._processors = processors
        self._file_workers = file_workers
        self._rows: dict[Hashable, _Row] = {}
        # Jobs to come whose requests go job by job, with the keys of their rows.
        self._apart: dict[Identity, Hashable] = {}
        self._open: Counter[Hashable] = Counter()

    def pays(
        self, row: Model, stages: Sequence[MergedStage], request: Request, tool: FileWorkerPool
    ) -> bool:
        """Decide whether a request is merged; if not, the jobs that follow it are not, either.

        Parameters
        ----------
        row
            The model that is the models of all stages.
        tool
            Of the first stage.
        """
        if self._open[row.key]:
            self.goes_job_by_job(row, request)
            return False
        known = self._rows.get((row.key, 0))
        if known is not None and known.is_merged and (row.queue or row.in_flight):
            # Once a stage is measured, it is decided once more for those that wait.
            known.unjudged += 1
            if row.merged.compute_s is None or known.unjudged < MAX_UNJUDGED:
                return True
        waiting = len(tool.reads) + len(tool.reading) + len(row.queue)
        if not self._judged(row, stages, request, 1 + waiting):
            self.goes_job_by_job(row, request)
            return False
        return True

    def still_pays(self, row: Model, one: MergedRequest) -> bool:
        """Decide once more, by what was measured, for requests that wait for the common process.

        ``one``: any of those that begin at the same stage.
        """
        if row.merged.compute_s is None or one.is_single:
            return True
        waiting = len(row.tool.reads) + len(row.tool.reading) + len(row.queue)
        return self._judged(row, one.stages, one.request, waiting, one.offset)

    def _judged(
        self,
        row: Model,
        stages: Sequence[MergedStage],
        request: Request,
        there: int,
        offset: int = 0,
    ) -> bool:
        known = self._rows.setdefault((row.key, offset), _Row(is_merged=bool(offset) or None))
        case = self._case(row, stages, request, there)
        case = dataclasses.replace(case, is_going_on=bool(known.is_merged))
        known.excess_s, known.unjudged = case.excess_s, 0
        verdict = judge(case)
        if verdict.pays is not known.is_merged and known.notes < MAX_NOTES:
            known.notes += 1
            figures = {"merged_s": round(verdict.merged_s, 3), "apart_s": round(verdict.apart_s, 3)}
            named = {"model": row.name, "merged": verdict.pays, "requests": case.requests}
            self._outbox.note("merge_decided", **named, **figures, why=verdict.why)
        known.is_merged = verdict.pays
        return verdict.pays

    def _case(
        self,
        row: Model,
        stages: Sequence[MergedStage],
        request: Request,
        there: int,
    ) -> Case:
        workers, figures = row.workers.values(), row.merged
        is_there = any(worker.is_coming for worker in workers)
        later_s = figures.later_loads_s
        if any(worker.has_all_stages for worker in workers):
            later_s = 0.0
        frames_s = [worker.frame_s for worker in row.tool.workers.values()]
        frame_s = max((each for each in frames_s if each is not None), default=None)
        return Case(
            requests=there + self._outlook.jobs_to_come(request.wave),
            loads_s=[self._load_s(stage, row) for stage in stages],
            merged_load_s=0.0 if is_there else row.load_s,
            later_loads_s=later_s,
            # On a GPU computing takes the same time either way.
            compute_s=0.0 if is_gpu(row.spec) else figures.compute_s,
            files_s=figures.files_s,
            apart_files_s=None if frame_s is None else 2.0 * frame_s,
            start_s=START_S if row.tool.start_s is None else row.tool.start_s,
            spent_s=figures.spent_s,
            slots=self._capacity(row),
            processors=self._processors,
            file_workers=self._file_workers,
        )

    def item_limit_s(self, row: Model, stages: Sequence[MergedStage], requests: int) -> float:
        """Return how long computing an item of requests may take for them to stay merged."""
        if row.merged.compute_s is not None or len(stages) == 1:
            return NO_LIMIT_S
        return item_limit_s(self._case(row, stages, stages[0].request, requests))

    def _load_s(self, stage: MergedStage, row: Model) -> float | None:
        """Return in how many seconds a model of its own is ready; None: not measured.

        One that was never loaded by itself is taken to be like the first one of the row.
        """
        own = self._models.of_ident(stage.model)
        if any(worker.is_coming or worker.has_loaded for m in own for worker in m.alive):
            return 0.0
        loads_s = [model.load_s for model in own if model.load_s is not None]
        known_s = max(loads_s) if loads_s else self._models.last_load_s(stage.model, stage.spec)
        return row.load_s if known_s is None else known_s

    # -- job by job ----------------------------------------------------------------
    def goes_job_by_job(self, row: Model, request: Request, offset: int = 0) -> None:
        """Have the jobs that follow a request not be merged, and others until these are done.

        ``offset``: which stage of the row the request's is.
        """
        row.merged.spent_s = 0.0
        for later in request.follow[: len(row.more_params) - offset]:
            if later.identity not in self._apart:
                self._apart[later.identity] = row.key
                self._open[row.key] += 1

    def goes_apart(self, request: Request, *, is_alone: bool) -> bool:
        """Tell whether a job that is ready follows one that was not merged.

        Parameters
        ----------
        is_alone
            No other job is in flight: others that were to follow will not come.
        """
        is_held = request.identity in self._apart
        if is_held:
            self._comes_no_more(request.identity)
        elif is_alone:
            self._apart.clear()
            self._open.clear()
        return is_held

    def _comes_no_more(self, identity: Identity) -> None:
        key = self._apart.pop(identity)
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def forget_run(self, run: str) -> None:
        """None of a run's jobs will come: they hold nobody to their way."""
        for identity in [each for each in self._apart if each[:1] == (run,)]:
            self._comes_no_more(identity)

    def forget(self, row: Model) -> None:
        """A row is not needed any longer."""
        for offset in range(len(row.more_params)):
            self._rows.pop((row.key, offset), None)

    # -- measuring -------------------------------------------------------------------
    def stage_done(self, row: Model, message: StageDone) -> None:
        """One stage of a dispatch is done, of so many requests as its message names."""
        stage = message.stage
        if message.load_s is not None:
            row.merged.stage_loaded(stage, message.load_s)
        computed_s, files_s = message.computed_s, message.files_s
        requests, stages = len(message.requests), 1 + len(row.more_params)
        if not requests or computed_s is None:
            return
        if files_s is None:
            row.merged.stage_alone(stage, computed_s, requests)
        else:
            row.merged.stage_done(stage, stages, computed_s, files_s, requests)

    def waited(self, row: Model) -> None:
        """A job was ready before its stage was done."""
        known = self._rows.get((row.key, 0))
        if known is not None:
            row.merged.spent_s += known.excess_s
