"""When the jobs of a wave are ready: estimates from what those before them take. Pure.

They are kept until something changes: they are asked for again and again, and each asks for those
of the waves before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping

from snakemake_executor_gpupool.scheduling.forecast import Need, Wave
from snakemake_executor_gpupool.scheduling.job_kinds import JobKinds
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.waves import Count, WaveTable

#: Nobody knows when a model without a device gets one.
NO_DEVICE_S = 1e5
#: What a job is taken to need while nothing was measured, in seconds.
UNMEASURED_S = 1.0


class ReadyTimes:
    """Estimates when jobs to come are ready.

    Parameters
    ----------
    table, kinds, models
        The waves, the models of each kind, and all models by their keys.
    job_s
        Returns what a job of a model takes a worker; None: nothing was measured.
    """

    def __init__(
        self,
        table: WaveTable,
        kinds: JobKinds,
        models: Mapping[Hashable, Model],
        job_s: Callable[[Model], float | None],
    ) -> None:
        self._table = table
        self._kinds = kinds
        self._models = models
        self._job_s = job_s
        self._ready_in_s: dict[str, float] = {}

    def forget(self) -> None:
        """Estimate anew."""
        self._ready_in_s.clear()

    def ready_in_s(self, wave: Wave) -> float:
        """Estimate in how many seconds the next job of a wave is ready."""
        if self._table.counts[wave.name].unread:
            return 0.0
        known_s = self._ready_in_s.get(wave.name)
        if known_s is None:
            self._ready_in_s[wave.name] = 0.0  # whatever a forecast says, this ends
            known_s = max((self._needed_s(wave, need) for need in wave.after), default=0.0)
            if wave.after and not known_s and not self._table.counts[wave.name].arrived:
                # Some of its jobs wait for none of one wave, and some for none of another.
                known_s = min(self._first_done_in_s(need.wave) for need in wave.after)
            self._ready_in_s[wave.name] = known_s
        return known_s

    def pace_before(self, wave: Wave) -> float:
        """Estimate in which time one more job of a wave is ready; 0: all are at once."""
        waves, counts = self._table.waves, self._table.counts
        return max(
            (
                self._pace(self._models_of(waves[need.wave].kind))[0]
                for need in wave.after
                if need.wave in waves and need.jobs < counts[need.wave].total
            ),
            default=0.0,
        )

    def _needed_s(self, wave: Wave, need: Need) -> float:
        """The first job waits for ``need.jobs``, the last one for all, those between for some."""
        count, theirs = self._table.counts[wave.name], self._table.counts.get(need.wave, Count())
        least = min(need.jobs, theirs.total)
        share = count.arrived / max(count.total - 1, 1)
        return self._done_in_s(need.wave, math.ceil(least + (theirs.total - least) * share))

    def _first_done_in_s(self, name: str) -> float:
        return self._done_in_s(name, min(self._table.counts.get(name, Count()).total, 1))

    def _done_in_s(self, name: str, jobs: int) -> float:
        """Estimate in how many seconds so many jobs of a wave are done."""
        count = self._table.counts.get(name, Count())
        lacking, at_work = jobs - count.done - count.computed, count.in_flight - count.computed
        if lacking <= 0:
            return 0.0
        wave = self._table.waves.get(name)
        models = self._models_of(wave.kind) if wave else []
        job_s, start_s = self._pace(models)
        open_s = min(lacking, at_work) * job_s
        if lacking <= at_work or wave is None:
            return start_s + open_s
        return max(start_s, self.ready_in_s(wave)) + open_s + (lacking - at_work) * job_s

    def _models_of(self, kind: str) -> list[Model]:
        return [self._models[key] for key in self._kinds.models(kind)]

    def _pace(self, models: Iterable[Model]) -> tuple[float, float]:
        """Return what a job takes all workers together, and in how long they can begin."""
        paces = [self._pace_of(model) for model in models]
        if not paces:
            return UNMEASURED_S, NO_DEVICE_S
        return sum(pace[0] for pace in paces) / len(paces), min(pace[1] for pace in paces)

    def _pace_of(self, model: Model) -> tuple[float, float]:
        working = sum(worker.is_feedable for worker in model.workers.values())
        job_s = self._job_s(model)
        start_s = 0.0 if working else model.load_s or UNMEASURED_S
        if not any(worker.is_coming for worker in model.workers.values()):
            start_s += NO_DEVICE_S
        return (UNMEASURED_S if job_s is None else job_s) / max(working, 1), start_s
