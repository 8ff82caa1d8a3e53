"""Which way a short request goes: through all models of its row at once, or job by job. Pure.

:mod:`.worth` judges by numbers; this gathers them, and keeps to a decision where going back on it
would cost both: once requests of a row go job by job, so do all that come before these are done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.merging.stage import MergedStage
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import Identity
from snakemake_executor_gpupool.scheduling.merging.worth import Case, RowFigures, judge
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.wire.requests import Request

#: So often at most it is noted that requests of a row go the other way from now on.
MAX_NOTES = 20


@dataclass(eq=False)
class _Row:
    """What is known of requests through one row of models."""

    figures: RowFigures = field(default_factory=RowFigures)
    is_merged: bool | None = None
    notes: int = 0


class MergeChoice:
    """Decides for one request after the other.

    Parameters
    ----------
    models, outlook
        Which models are loaded, and how many jobs will come.
    """

    def __init__(self, models: ModelTable, outlook: Outlook, outbox: Outbox) -> None:
        self._models = models
        self._outlook = outlook
        self._outbox = outbox
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
            self._goes_apart(row.key, stages)
            return False
        known = self._rows.setdefault(row.key, _Row())
        waiting = len(tool.reads) + len(tool.reading) + len(row.queue)
        coming = self._outlook.jobs_to_come(request.wave)
        is_there = any(worker.is_coming for worker in row.workers.values())
        case = Case(
            requests=1 + waiting + coming,
            loads_s=[self._load_s(stage, row) for stage in stages],
            merged_load_s=0.0 if is_there else row.load_s,
            stage_s=known.figures.stage_s,
            spent_s=known.figures.spent_s,
        )
        verdict = judge(case)
        if verdict.pays is not known.is_merged and known.notes < MAX_NOTES:
            known.notes += 1
            figures = {"saved_s": round(verdict.saved_s, 3), "costs_s": round(verdict.costs_s, 3)}
            named = {"model": row.name, "merged": verdict.pays, "requests": case.requests}
            self._outbox.note("merge_decided", **named, **figures, why=verdict.why)
        known.is_merged = verdict.pays
        if not verdict.pays:
            known.figures.spent_s = 0.0
            self._goes_apart(row.key, stages)
        return verdict.pays

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
    def _goes_apart(self, key: Hashable, stages: Sequence[MergedStage]) -> None:
        for stage in stages[1:]:
            if stage.request.identity not in self._apart:
                self._apart[stage.request.identity] = key
                self._open[key] += 1

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
        self._rows.pop(row.key, None)

    # -- measuring -------------------------------------------------------------------
    def stage_done(self, row: Model, stage: int, seconds: float, requests: int) -> None:
        """One stage of a dispatch is done; on a GPU most of its time is the GPU's."""
        if stage and requests and not is_gpu(row.spec) and row.key in self._rows:
            self._rows[row.key].figures.stage_done(seconds, requests)

    def waited(self, row_key: Hashable) -> None:
        """A job was ready before its stage was done."""
        if row_key in self._rows:
            self._rows[row_key].figures.waited()
