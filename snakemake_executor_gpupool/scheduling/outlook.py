"""What the forecast means for the models: which will be used again, how soon, how often. Pure.

The forecast counts jobs; what they take is measured here, as they come. All that is answered is an
estimate, and decides only where and when something is computed, never what. Without a forecast
every answer is that nothing is known.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

from snakemake_executor_gpupool.devices.allocation.foresight import Foresight
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Wave, kind_of
from snakemake_executor_gpupool.scheduling.job_kinds import JobKinds
from snakemake_executor_gpupool.scheduling.model_waves import ModelWaves
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.plan import workers_that_pay
from snakemake_executor_gpupool.scheduling.models.shares import waiting_s
from snakemake_executor_gpupool.scheduling.ready_times import ReadyTimes
from snakemake_executor_gpupool.scheduling.waves import WaveTable
from snakemake_executor_gpupool.wire.requests import Request

#: So many jobs that are still to come are looked at.
MOST_AHEAD = 64
#: Later than anything that is needed at all.
FAR_S = 1e9
#: For so many times its load a worker computes before others with work that is not urgent get its
#: devices: its own work is known, and does not go away.
PAID_LOADS = 10.0
#: A load that takes a smaller share of a job's time is not worth another order.
WEIGHS = 0.5
#: So long an estimate of a time counts: it costs more than most events.
RENEWED_AFTER_S = 0.1


class Outlook(Foresight):
    """Follows the forecast through the run.

    Parameters
    ----------
    models
        All models by their keys.
    """

    def __init__(self, models: Mapping[Hashable, Model]) -> None:
        self._models = models
        self._table = WaveTable()
        self._kinds = JobKinds()
        self._waves = ModelWaves(self._table, self._kinds)
        #: By wave: the model that it and all that it waits for lacks; see :meth:`_lacking`.
        self._lacks: dict[str, frozenset[Hashable] | None] = {}
        #: By kind: how many waves follow on its jobs in flight; None: to be looked up.
        self._rows_of_kind: dict[str, int] | None = None
        self._jobs_read: Counter[Hashable] = Counter()
        self._cost_read: defaultdict[Hashable, float] = defaultdict(float)
        self._times = ReadyTimes(self._table, self._kinds, models, self.job_s)
        self._ranks: dict[Hashable, tuple[float, ...]] = {}
        self._estimated_s = -math.inf
        self._used: set[Hashable] | None = None
        #: When models are used that are not loaded, in order; None: to be looked up.
        self._next_uses_s: list[float] | None = None
        #: What a load, and a job, of a model takes, in the median of all; None: to be looked up.
        self._typical: tuple[float | None, float | None] | None = None

    # -- what happens ----------------------------------------------------------------
    def replace(self, forecast: Forecast, client: str = "") -> None:
        """Take in a new forecast; jobs in flight keep the waves that they came with.

        ``client``: whose it is, of several.
        """
        self._table.replace(forecast, client)
        self._waves.forecast_replaced()
        self._forget_ranks()
        self._forget_estimates()

    def forget(self, model: Model) -> None:
        """Forget a model that is about to be forgotten."""
        self._waves.forget(model.key)
        self._jobs_read.pop(model.key, None)
        self._cost_read.pop(model.key, None)
        self._used = self._typical = None
        self._forget_ranks()
        self._forget_estimates()

    def job_ready(self, request: Request) -> None:
        """A job has come."""
        if self._table.job_ready(request):
            self._forget_estimates()

    def job_read(self, request: Request, model: Model, cost: float) -> None:
        """All items of a job are known: which model computes them, and what they cost."""
        self._table.job_read(request.job_id)
        if self._waves.needs(request.wave, model.key):
            self._forget_ranks()
        # Others change by it, too, a little: their ranks are renewed in a moment anyway.
        self._ranks.pop(model.key, None)
        self._forget_estimates()
        self._jobs_read[model.key] += 1
        self._cost_read[model.key] += cost

    def job_computed(self, request: Request) -> None:
        """All results of a job are there; its outputs are to be written."""
        if self._table.job_computed(request.job_id):
            self._forget_estimates()

    def job_over(self, request: Request) -> None:
        """A job has ended, in whatever way."""
        if self._table.job_over(request.job_id):
            self._forget_estimates()

    def time_is(self, now_s: float) -> None:
        """Estimate anew what was estimated a while ago."""
        if now_s - self._estimated_s >= RENEWED_AFTER_S:
            self._estimated_s, self._used, self._typical = now_s, None, None
            self._next_uses_s = None
            self._forget_ranks()
            self._forget_estimates()

    def _forget_estimates(self) -> None:
        self._times.forget()

    def _forget_ranks(self) -> None:
        self._ranks.clear()
        self._lacks.clear()
        self._rows_of_kind = None

    def foretell(self, kind: str, key: Hashable) -> None:
        """Take a model to be that of a kind that has had no job yet."""
        self._waves.foretell(kind, key)
        self._used = self._next_uses_s = None
        self._forget_ranks()
        self._forget_estimates()

    # -- what is known -----------------------------------------------------------------
    def unmet(self) -> list[tuple[float, str, Request]]:
        """Return the kinds without a job so far whose model can be asked for, first used first.

        Each with in how many seconds its first job is ready, and what that will ask for.
        """
        table, kinds = self._table, self._kinds
        return sorted(
            (
                (self._times.ready_in_s(wave), wave.kind, table.foretold[wave.kind])
                for wave in table.waves.values()
                if wave.kind in table.foretold and not kinds.models(wave.kind)
            ),
            key=lambda each: each[:2],
        )

    def knows_what_is_ready(self) -> bool:
        """Whether it is known what all jobs need that are ready, or may be at any moment."""
        if not all(map(self._kinds.models, self._table.kinds_read())):
            return False
        waves = () if self._jobs_read else self._table.waves.values()
        return all(wave.after or wave.waits_elsewhere for wave in waves)

    @property
    def is_known(self) -> bool:
        """Whether there is a forecast."""
        return self._table.is_known

    @property
    def is_complete(self) -> bool:
        """Whether no job will come that nobody foresees."""
        return self._table.is_complete

    def paid_loads(self, model: Model) -> float:
        """Return for how many times its load a worker computes before it makes room for others.

        Another worker of its model goes on with the work, if there is one.
        """
        workers = sum(worker.is_feedable for worker in model.workers.values())
        return PAID_LOADS if self.is_known and workers <= 1 else 1.0

    def comes_now(self, model: Model) -> bool:
        """Whether jobs of a model are to come that wait for nothing."""
        waves = () if self._table.is_shared else self._waves.of(model.key)
        coming = (w for w in waves if self._table.counts[w.name].coming and not w.waits_elsewhere)
        return not all(map(self._times.ready_in_s, coming))

    def jobs_to_come(self, wave: str) -> int:
        """Return how many jobs of a wave are still to come, as far as is known."""
        count = self._table.counts.get(wave)
        return 0 if count is None else count.coming

    def model_of(self, request: Request) -> Model | None:
        """Return the model of a job that is to be read; None: nobody knows yet."""
        keys = self._kinds.models(kind_of(request.wave)) if request.wave else ()
        return self._models[next(iter(keys))] if len(keys) == 1 else None

    def is_over(self, model: Model) -> bool:
        """Whether no job of a model will come any more, as far as can be told for certain."""
        if not self._table.is_complete or model.is_chain:
            return False
        return not any(self._possible_waves(model))

    def is_nobodys(self, model: Model) -> bool:
        """Whether no client foresees a job of a model, where several have forecasts."""
        return self._table.is_shared and not any(self._possible_waves(model))

    def model_next_use_s(self, model: Model) -> float:
        """Estimate in how many seconds a model gets work; infinite: never, as far as is known."""
        if not self.is_known:
            return 0.0
        if model.waiting:
            return 0.0
        return min(
            (self._times.ready_in_s(wave) for wave in self._waves.of(model.key)), default=math.inf
        )

    def next_use_s(self, group: Hashable, left: int = 0) -> float:
        """The same, by the model's key; 0 where a load costs next to nothing.

        Later than any model's last worker, where those that stay do the work nearly as soon.
        """
        model = self._models.get(group) if self.is_known else None
        if model is None or not self.weighs(model):
            return 0.0
        next_s = self.model_next_use_s(model)
        if not left or model.load_s is None or next_s == math.inf:
            return next_s
        saved_s = self._saved_s(model, left)
        return 2 * FAR_S - saved_s if saved_s < WEIGHS * model.load_s else next_s

    def _saved_s(self, model: Model, workers: int) -> float:
        """Estimate what one worker more than so many saves in the next jobs."""
        jobs = max(
            (self._table.counts[w.name].coming for w in self._waves.of(model.key)), default=0
        )
        return (self.job_s(model) or 0.0) * jobs * (1 / workers - 1 / (workers + 1))

    def spares_one(self, model: Model, within_s: float, now_s: float) -> bool:
        """Whether one of a model's workers is soon free that saves its next jobs little."""
        workers = [worker for worker in model.workers.values() if worker.is_feedable]
        if len(workers) < 2 or model.load_s is None or model.speed.s_per_cost is None:
            return False
        busy_s = waiting_s(model) + sum(model.free_in_s(worker, now_s) for worker in workers)
        if busy_s > within_s * len(workers):
            return False
        return self._saved_s(model, len(workers) - 1) < WEIGHS * model.load_s

    def weighs(self, model: Model) -> bool:
        """Whether loading a model takes long enough, beside its jobs, to be avoided."""
        load_s, job_s = model.load_s, self.job_s(model)
        if load_s is None or job_s is None:  # taken to be as long as those of others
            typical_load_s, typical_job_s = self._typical_s()
            load_s = typical_load_s if load_s is None else load_s
            job_s = typical_job_s if job_s is None else job_s
        return load_s is None or job_s is None or load_s >= WEIGHS * job_s

    def guessed_s(self, model: Model) -> tuple[float, list[float]] | None:
        """Guess what a load takes, and each of the jobs so far, by those of other models."""
        load_s, job_s = self._typical_s()
        if load_s is None or job_s is None:
            return None
        return load_s, [job_s] * min(self._jobs_read[model.key], MOST_AHEAD)

    def _typical_s(self) -> tuple[float | None, float | None]:
        if self._typical is None:
            models = self._models.values()
            self._typical = median(m.load_s for m in models), median(map(self.job_s, models))
        return self._typical

    def rank(self, group: Hashable) -> tuple[float, ...]:
        """Those last that would be loaded again for little; first those on which most depends."""
        rank = self._ranks.get(group)
        if rank is None:
            self._ranks[group] = rank = self._rank_of(group)
        return rank

    def _rank_of(self, group: Hashable) -> tuple[float, ...]:
        model = self._models.get(group)
        if model is None or not self.weighs(model):
            return 0.0, 0.0
        # Work that takes longer than a load is worth one more.
        pays = model.load_s is not None and waiting_s(model) > model.load_s
        comes_back = not pays and self._is_blocked(model)
        return float(comes_back), -float(self._rows_after(model))

    def _is_blocked(self, model: Model) -> bool:
        """Whether some jobs of a model wait for models that are not loaded."""
        own = {model.key}
        lacking = (self._lacking(wave.name) for wave in self._waves.of(model.key))
        return not all(keys is not None and keys <= own for keys in lacking)

    def _lacking(self, name: str) -> frozenset[Hashable] | None:
        """Return the model that a wave, and all that it waits for, lacks; None: more, or unknown.

        Found once for all models: with as many of them as waves, the square of their number counts.
        """
        if name in self._lacks:
            return self._lacks[name]
        self._lacks[name] = found = frozenset[Hashable]()  # whatever a forecast says, this ends
        wave, count = self._table.waves.get(name), self._table.counts.get(name)
        if wave is None or count is None or count.total <= count.done:
            return found
        kinds = self._kinds.models(wave.kind)
        parts = [self._unloaded(kinds) if kinds else None]
        parts += [self._lacking(need.wave) for need in wave.after]
        known = [part for part in parts if part is not None]
        joined = frozenset[Hashable]().union(*known)
        is_clear = len(known) == len(parts) and len(joined) <= 1
        self._lacks[name] = joined if is_clear else None
        return self._lacks[name]

    def _unloaded(self, keys: Collection[Hashable]) -> frozenset[Hashable] | None:
        """Return which of some models is not loaded; None: several are not."""
        lacking = set[Hashable]()
        for key in keys:
            if not any(worker.is_feedable for worker in self._models[key].workers.values()):
                lacking.add(key)
                if len(lacking) > 1:
                    return None
        return frozenset(lacking)

    def _rows_after(self, model: Model) -> int:
        """Return how many waves follow one after the other on a model's jobs in flight."""
        if self._rows_of_kind is None:
            rows = self._rows_of_kind = {}
            for name in self._table.of_jobs_in_flight():
                kind = kind_of(name)
                rows[kind] = max(rows.get(kind, 0), self._table.rows.get(name, 0))
        rows = self._rows_of_kind
        return max((rows.get(kind, 0) for kind in self._kinds.of(model.key)), default=0)

    def workers_ahead(self, model: Model, most: int) -> int:
        """Return how many workers a model should have when its next jobs come; at least one."""
        waves = sorted(self._waves.of(model.key), key=self._times.ready_in_s)
        job_s = self.job_s(model)
        if not waves or not job_s or model.load_s is None:
            return 1
        pace_s, coming = self._times.pace_before(waves[0]), self._table.counts[waves[0].name].coming
        if pace_s:  # they come one after the other
            return min(max(math.ceil(job_s / pace_s), 1), most, max(coming, 1))
        most = workers_that_pay([job_s] * min(coming, MOST_AHEAD), [], model.load_s, most, most)
        # Beside those that are there, one more has to be ready before they have done all.
        coming = sum(self._table.counts[wave.name].coming for wave in waves)
        start_s = max(model.load_s - self._times.ready_in_s(waves[0]), 0.0)
        there_s = [0.0 if w.is_feedable else start_s for w in model.workers.values() if w.is_coming]
        jobs_s = [job_s] * min(coming, MOST_AHEAD)
        return max(workers_that_pay(jobs_s, there_s, start_s, most - len(there_s), most), 1)

    def work_within(self, model: Model, within_s: float) -> list[float]:
        """Estimate the seconds of a model's jobs that are ready in time, ``MOST_AHEAD`` at most."""
        job_s = self.job_s(model)
        if not self.is_known or not job_s or not self.weighs(model):
            return []
        jobs = sum(self._jobs_within(wave, within_s) for wave in self._waves.of(model.key))
        return [job_s] * min(jobs, MOST_AHEAD)

    def _jobs_within(self, wave: Wave, within_s: float) -> int:
        coming, next_s = self._table.counts[wave.name].coming, self._times.ready_in_s(wave)
        if not wave.after or wave.waits_elsewhere or next_s > within_s or not coming:
            return 0
        pace_s = self._times.pace_before(wave)
        return min(coming, 1 + int((within_s - next_s) / pace_s)) if pace_s else coming

    def loads_within(self, within_s: float) -> int:
        """Count the models without a worker, for which nothing is ready, that are used in time."""
        if self._next_uses_s is None:
            unloaded = (m for m in self._models.values() if not (m.workers or m.waiting or m.error))
            on_gpus = (m for m in unloaded if is_gpu(m.spec) and self.weighs(m))
            self._next_uses_s = sorted(map(self.model_next_use_s, on_gpus))
        return bisect.bisect_left(self._next_uses_s, within_s)

    def others_to_come(self, model: Model) -> int:
        """Count the other models that have work, or had and have jobs to come.

        Any of them may want a device more. One that had no job so far is loaded ahead where nobody
        else wants the device, and takes none from those that do.
        """
        if self._used is None:
            self._used = {
                key
                for key, each in self._models.items()
                if not each.is_foretold and self.model_next_use_s(each) < math.inf
            }
        return len(self._used) - (model.key in self._used)

    def is_reading(self, model: Model) -> bool:
        """Whether jobs are being read that may be of a model."""
        if self._table.is_reading_unforeseen(str(model.tool.ref)):
            return True
        waves = self._possible_waves(model)
        return any(self._table.counts[wave.name].unread for wave in waves)

    def items_imminent(self, model: Model) -> float:
        """Estimate how many items come of jobs whose inputs are all being written, or there."""
        jobs = sum(self._table.imminent(wave) for wave in self._waves.of(model.key))
        return jobs * model.items_total / max(self._jobs_read[model.key], 1)

    def job_s(self, model: Model) -> float | None:
        """Return what a job of a model takes a worker; None if nothing was measured."""
        jobs = self._jobs_read[model.key]
        return model.speed.seconds(self._cost_read[model.key] / jobs) if jobs else None

    def _possible_waves(self, model: Model) -> Iterator[Wave]:
        return self._waves.possible(model.key, str(model.tool.ref))


def median(known: Iterable[float | None]) -> float | None:
    """Return the median of what is known; None: nothing is."""
    values = [value for value in known if value is not None]
    return statistics.median(values) if values else None
