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
from collections.abc import Hashable

from snakemake_executor_gpupool.scheduling.jobs import JobTable
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest, Place, merged_of
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import Identity
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker
from snakemake_executor_gpupool.scheduling.models.row_figures import BRIEF_LOADS_S
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.model_messages import StageDone, StagedRequest
from snakemake_executor_gpupool.wire.requests import Request


class ByStage:
    """Decides that, and knows the jobs to come that have a place in a row.

    Attributes
    ----------
    rows
        Those whose requests go one stage at a time, by their keys.
    """

    def __init__(self, jobs: JobTable) -> None:
        self._jobs = jobs
        self._places: dict[Identity, Place] = {}
        self.rows: dict[Hashable, Model] = {}

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
        if worker.is_by_stage:
            self.rows[row.key] = row
        elif not any(other.is_by_stage for other in row.alive):
            self.rows.pop(row.key, None)
        return worker.is_by_stage

    def is_last_for_now(self, row: Model, offset: int) -> bool:
        """Tell whether no request waits, or is read, that could go before the next stage."""
        if row.queue:
            return False
        first = itertools.islice(row.tool.reads, 1)  # the others have come later
        jobs = map(self._jobs.get, (*first, *sorted(row.tool.reading)))
        return all(job is None or self._is_beyond(job.place, row, offset) for job in jobs)

    @staticmethod
    def _is_beyond(place: Place | None, row: Model, offset: int) -> bool:
        return place is not None and place.row == row.key and place.offset > offset

    # -- the jobs that follow --------------------------------------------------------
    def expect(self, merged: MergedRequest, row: Model) -> None:
        """Give the jobs that follow a request their places in its row."""
        for number, later in enumerate(merged.request.follow, merged.offset + 1):
            if number <= len(row.more_params):
                self._places[later.identity] = Place(row.key, number)

    def expect_none(self, merged: MergedRequest) -> None:
        """A request goes another way, and so do the jobs that follow it."""
        for later in merged.request.follow:
            self._places.pop(later.identity, None)

    def place_of(self, request: Request) -> Place | None:
        """Take out a job's place; None: it has none."""
        return self._places.pop(request.identity, None)

    def places_for(self, place: Place | None, home: Model) -> list[Place]:
        """Return where a job may be that is read; ``home``: the model that it has otherwise.

        One without a place may wait for items that others have, as the job before it did.
        """
        if place is not None:
            return [place]
        if home.alive:
            return []
        rows = self.rows.values()
        return [Place(row.key, n) for row in rows for n in range(1, 1 + len(row.more_params))]

    def forget_run(self, run: str) -> None:
        """None of a run's jobs will come."""
        for identity in [each for each in self._places if each[:1] == (run,)]:
            del self._places[identity]

    def forget(self, row: Model) -> None:
        """A row is not needed any longer."""
        self.rows.pop(row.key, None)


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


def only(batch: Batch) -> MergedRequest:
    """Return the first request of a dispatch: all begin at the same stage, and go as far."""
    return next(merged_of(batch.items))
