"""Which short requests go through the models of their row one stage at a time. Pure.

While a process loads a model it does nothing else. Others can write meanwhile what the models
before have made, and read it for the jobs that follow. So where a model is still to be loaded, and
that takes long, and more requests wait than one dispatch takes, a dispatch ends after its first
stage, until all models are loaded::

    A's items are computed ─► A's job goes on as any job does: its outputs are written
    B's model is loaded    ─► B's job comes, is read, and takes its place in the row: stage B
"""

from __future__ import annotations

import dataclasses
import itertools

from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, Place, merged_of
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import Identity
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker
from snakemake_executor_gpupool.scheduling.models.row_figures import BRIEF_LOADS_S
from snakemake_executor_gpupool.scheduling.models.table import ModelTable
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.model_messages import StageDone, StagedRequest
from snakemake_executor_gpupool.wire.requests import Request


class ByStage:
    """Decides that, and knows the jobs to come that have a place in a row."""

    def __init__(self, jobs: JobTable, models: ModelTable) -> None:
        self._jobs = jobs
        self._models = models
        self._places: dict[Identity, Place] = {}

    def ends_early(self, worker: ModelWorker, first: MergedRequest) -> bool:
        """Decide whether a dispatch that this request is the first of ends after one stage."""
        row = worker.model
        if first.is_single:
            return False
        later = range(first.offset + 1, first.offset + len(first.stages))
        missing = [stage for stage in later if stage not in worker.loaded_stages]
        known_s = max((row.load_s or 0.0) - (row.tool.start_s or 0.0), 0.0)
        worker.is_by_stage = bool(
            missing
            and (worker.is_by_stage or row.queue)
            and row.merged.loads_s(missing, len(row.more_params), known_s) > BRIEF_LOADS_S
        )
        return worker.is_by_stage

    def is_last_for_now(self, row: Model, offset: int, tool: FileWorkerPool) -> bool:
        """Tell whether no request waits, or is read, that could go before the next stage.

        ``tool``: of the stage that is computed now.
        """
        if row.queue:
            return False
        first = itertools.islice(tool.reads, 1)  # the others have come later
        jobs = map(self._jobs.get, (*first, *sorted(tool.reading)))
        return all(job is None or self._is_beyond(job.place, row, offset) for job in jobs)

    @staticmethod
    def _is_beyond(place: Place | None, row: Model, offset: int) -> bool:
        return place is not None and place.row == row.key and place.offset > offset

    # -- the jobs that follow --------------------------------------------------------
    def expect(self, request: Request, row: Model, offset: int) -> None:
        """Give the jobs that follow one their places in its row; ``offset`` is its own."""
        for number, later in enumerate(request.follow, offset + 1):
            if number <= len(row.more_params):
                self._places[later.identity] = Place(row.key, number)

    def waits_for_others(self, request: Request, home: Model) -> None:
        """Give places to the jobs that follow one whose items others have: those are computed.

        ``home``: the model of its own.
        """
        part = home.ident, request.tool
        for row in self._models.rows():
            is_its = row.parts[0] == part and row.instance == home.instance
            if is_its and row.spec == home.spec and row.alive:
                self.expect(request, row, 0)
                return

    def expect_none(self, merged: MergedRequest) -> None:
        """A request goes another way, and so do the jobs that follow it."""
        for later in merged.request.follow:
            self._places.pop(later.identity, None)

    def place_of(self, request: Request) -> Place | None:
        """Take out a job's place; None: it has none."""
        return self._places.pop(request.identity, None)

    def forget_run(self, run: str) -> None:
        """None of a run's jobs will come."""
        for identity in [each for each in self._places if each[:1] == (run,)]:
            del self._places[identity]


def by_requests(message: StageDone, batch: Batch) -> tuple[StageDone, list[Blob]]:
    """Return of a stage by itself which requests have all their results, and what is left over."""
    assert message.computed is not None
    result_at = dict(zip(message.computed, message.results, strict=True))
    requests: list[StagedRequest] = []
    results: list[Blob] = []
    left: list[Blob] = []
    end = 0
    for number, merged in enumerate(merged_of(batch.items)):
        start, end = end, end + len(merged.parts)
        found = [result_at[place] for place in range(start, end) if place in result_at]
        if len(found) == end - start:
            keys, items = tuple(merged.part_keys), len(merged.part_of_item)
            requests.append(StagedRequest(number, keys, items, (), (), (), 0))
            results += found
        else:
            left += found
    whole = dataclasses.replace(message, requests=tuple(requests), results=tuple(results))
    return whole, left
