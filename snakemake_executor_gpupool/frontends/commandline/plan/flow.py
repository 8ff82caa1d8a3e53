"""Snakemake in simulated time: it hands out the jobs of a graph, and hears of their ends. Pure.

Jobs go the same ways as under the executor: served ones to the forecast of the pool, plain ones
through the same admission of threads, plain GPU jobs through a lease first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from snakemake_executor_gpupool.frontends.commandline.plan.to_come import JobsToCome
from snakemake_executor_gpupool.frontends.snakemake.admission import Admission, LaneJob
from snakemake_executor_gpupool.frontends.snakemake.lookahead import Lookahead
from snakemake_executor_gpupool.frontends.snakemake.planned import PlannedJob, Way
from snakemake_executor_gpupool.frontends.snakemake.portions import JOBS_AT_ONCE, portions
from snakemake_executor_gpupool.runtime.expected import ExpectedJob, Pace
from snakemake_executor_gpupool.runtime.planned_run import PlannedRun
from snakemake_executor_gpupool.scheduling.core import Setup
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import JobReport, Request


@dataclass(frozen=True)
class SnakemakesPace:
    """How long Snakemake itself takes.

    Attributes
    ----------
    opening_s
        From the pool's opening until the first jobs are chosen.
    turnaround_s
        From a job's end until those that wait for it are chosen, if nothing else is to do.
    finish_s, submit_s
        For each job that has ended, and for each that is handed out.
    child_s
        What a Snakemake process of its own takes beside its job.
    """

    opening_s: float = 0.1
    turnaround_s: float = 0.15
    finish_s: float = 0.004
    submit_s: float = 0.002
    child_s: float = 2.0


@dataclass(frozen=True)
class Limits:
    """What bounds how many jobs there are at a time.

    Attributes
    ----------
    cores, local_cores
        What plain jobs share, and those that Snakemake runs itself.
    jobs, jobs_a_second
        How many may be handed out at a time, and in a second; None: any number.
    """

    cores: int
    local_cores: int
    jobs: int | None = None
    jobs_a_second: float | None = None


class Flow:
    """One run of a workflow.

    Parameters
    ----------
    jobs
        All jobs that can be done.
    expected, tools, setup, pace
        As the forecast takes them.
    durations_s
        By job number, what jobs that are not served take.
    to_come
        Tells the pool of the jobs to come; None: it decides by those that are ready.

    Attributes
    ----------
    forecast
        The pool.
    done_s, errors
        By job number, when it ended, and why it would fail.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        expected: Mapping[int, ExpectedJob],
        tools: Mapping[str, ToolInfo],
        setup: Setup,
        pace: Pace,
        durations_s: Mapping[int, float],
        limits: Limits,
        own: SnakemakesPace | None = None,
        to_come: JobsToCome | None = None,
    ) -> None:
        self._to_come = to_come
        self._own = own or SnakemakesPace()
        self._durations_s, self._limits, self._factor = durations_s, limits, pace.factor
        self.forecast = PlannedRun(setup, expected, tools, pace, self._reported, self._granted)
        self._jobs = {job.number: job for job in jobs}
        self.done_s: dict[int, float] = {}
        self.errors: dict[int, str] = {}
        self._lane = _Lane(self.forecast, limits.cores, self._done)
        self._local = _Lane(self.forecast, limits.local_cores, self._done)
        self._units = _units(jobs)
        self._unit_of = {number: unit for unit, each in self._units.items() for number in each}
        self._open = {unit: self._awaited(unit) for unit in self._units}
        self._readers: defaultdict[int, list[int]] = defaultdict(list)
        for job in jobs:
            for before in job.after:
                self._readers[before].append(job.number)
        self._ready = deque(sorted((u for u, n in self._open.items() if not n), key=self._urgency))
        self._left = {unit: set(each) for unit, each in self._units.items()}
        self._running = 0
        self._finished: list[int] = []
        self._handed_out: deque[float] = deque()
        self._is_waking = False
        self._lookahead = Lookahead(_View(self._jobs, self._readers, self.done_s))

    def run(self) -> float:
        """Let the run happen; return its time since the pool was opened, in seconds."""
        self._wake_in(self._own.opening_s)
        return self.forecast.run()

    def _urgency(self, unit: int) -> tuple[int, int]:
        return -max(self._jobs[number].priority for number in self._units[unit]), unit

    def _awaited(self, unit: int) -> int:
        """Return how many jobs outside it a unit waits for."""
        inside = set(self._units[unit])
        before = {b for number in inside for b in self._jobs[number].after} - inside
        return len(before & self._jobs.keys())

    # -- Snakemake's main thread ---------------------------------------------------------
    def _wake_in(self, seconds: float) -> None:
        if not self._is_waking:
            self._is_waking = True
            self.forecast.at(self.forecast.now_s + seconds, self._wake)

    def _wake(self) -> None:
        """Look after jobs that have ended, then hand out those that may start."""
        finished, self._finished = self._finished, []
        busy_s = self._own.finish_s * len(finished)
        for unit in finished:
            self._running -= 1
            self._release(unit)
        chosen = self._choose()
        if chosen and self._to_come is not None:
            self._foresee(self._to_come)
        is_many = len(chosen) > JOBS_AT_ONCE
        if is_many:
            self.forecast.handing_over(goes_on=True)
        for units in portions(chosen):
            busy_s += self._own.submit_s * len(units)
            self.forecast.at(self.forecast.now_s + busy_s, self._starter(units))
        if is_many:
            end = partial(self.forecast.handing_over, goes_on=False)
            self.forecast.at(self.forecast.now_s + busy_s, end)
        self.forecast.at(self.forecast.now_s + busy_s, self._rest)

    def _foresee(self, to_come: JobsToCome) -> None:
        """Tell the pool what is to come, before it gets the first jobs."""
        forecast = to_come.look(self.forecast.now_s, self.done_s)
        if forecast is not None:
            self.forecast.foresee(forecast)

    def _rest(self) -> None:
        self._is_waking = False
        if self._finished:
            self._wake_in(0.0)
        elif self._ready and self._handed_out and self._has_room:
            self._wake_in(max(self._handed_out[0] + 1.0 - self.forecast.now_s, 0.01))

    @property
    def _has_room(self) -> bool:
        return self._limits.jobs is None or self._running < self._limits.jobs

    def _release(self, unit: int) -> None:
        """Let those that waited for a unit's jobs wait for them no longer."""
        for number in self._units[unit]:
            for other in {self._unit_of[reader] for reader in self._readers[number]} - {unit}:
                self._open[other] -= 1
                if self._open[other] == 0:
                    self._ready.append(other)

    def _choose(self) -> list[int]:
        """Return the units that are handed out now, as far as the limits go."""
        free = len(self._ready)
        if self._limits.jobs is not None:
            free = min(free, self._limits.jobs - self._running)
        if self._limits.jobs_a_second is not None:
            now_s = self.forecast.now_s
            while self._handed_out and self._handed_out[0] <= now_s - 1.0:
                self._handed_out.popleft()
            free = min(free, int(self._limits.jobs_a_second) - len(self._handed_out))
            self._handed_out.extend([now_s] * max(free, 0))
        chosen = [self._ready.popleft() for _ in range(max(free, 0))]
        self._running += len(chosen)
        return chosen

    # -- jobs ----------------------------------------------------------------------------
    def _starter(self, units: Iterable[int]) -> Callable[[], None]:
        def start() -> None:
            for unit in units:
                inside = set(self._units[unit])
                for number in self._units[unit]:
                    if not inside & set(self._jobs[number].after):
                        self._start(number)

        return start

    def _start(self, number: int) -> None:
        job = self._jobs[number]
        seconds = self._durations_s.get(number, 0.0) * self._factor
        if job.own_process:
            seconds += self._own.child_s * self._factor
        if job.way is Way.SERVED and job.request is not None:
            follow: tuple[Request, ...] = ()
            if job.may_lead:
                later = (self._jobs[n] for n in self._lookahead.chain(number))
                follow = tuple(
                    dataclasses.replace(each.request, job=each.request.bare)
                    for each in later
                    if each.request is not None
                )
            wave = self._to_come.wave_of(number) if self._to_come is not None else ""
            self.forecast.submit(dataclasses.replace(job.request, follow=follow, wave=wave))
        elif job.way is Way.LEASED and job.lease is not None:
            self.forecast.lease(job.lease)
        elif job.way is Way.NOTHING:
            self._done(number)
        elif job.way is Way.LOCAL:
            self._local.add(job, seconds)
        else:
            self._lane.add(job, seconds)

    def _granted(self, number: int) -> None:
        job = self._jobs[number]
        seconds = self._durations_s.get(number, 0.0) * self._factor
        self._lane.add(job, seconds)

    def _reported(self, report: JobReport) -> None:
        if report.error is not None:
            self.errors[report.job_id] = report.error
        self._done(report.job_id)

    def _done(self, number: int) -> None:
        """A job has ended: its group goes on, or Snakemake hears of it."""
        if number in self.done_s:
            return
        self.done_s[number] = self.forecast.now_s
        if self._jobs[number].way is Way.LEASED and number not in self.errors:
            self.forecast.lease_ended(number)
        unit = self._unit_of[number]
        self._left[unit].discard(number)
        if not self._left[unit]:
            self._finished.append(unit)
            self._wake_in(self._own.turnaround_s * self._factor)
            return
        inside = set(self._units[unit])
        for reader in self._readers[number]:
            awaited = inside & set(self._jobs[reader].after)
            if reader in inside and awaited <= self.done_s.keys():
                self._start(reader)


def _units(jobs: Sequence[PlannedJob]) -> dict[int, list[int]]:
    """Return what Snakemake hands out at a time: a job, or a group by its first job's number."""
    groups: dict[int, int] = {}
    units: dict[int, list[int]] = {}
    for job in jobs:
        unit = job.number if job.group is None else groups.setdefault(job.group, job.number)
        units.setdefault(unit, []).append(job.number)
    return units


class _Lane:
    """Jobs that run by themselves, as far as there are threads."""

    def __init__(self, forecast: PlannedRun, cores: int, done: Callable[[int], None]) -> None:
        self._forecast, self._done = forecast, done
        self._admission = Admission(cores)

    def add(self, job: PlannedJob, seconds: float) -> None:
        """Run a job when there are threads for it."""
        threads = min(job.threads, self._admission.budget)
        self._admission.add(
            LaneJob((job.number, seconds), threads, lambda error: None, priority=job.priority)
        )
        self._admit()

    def _admit(self) -> None:
        for lane_job in self._admission.admit():
            _, seconds = lane_job.job
            self._forecast.at(self._forecast.now_s + seconds, self._ender(lane_job))

    def _ender(self, lane_job: LaneJob) -> Callable[[], None]:
        def end() -> None:
            self._admission.release(lane_job)
            self._admit()
            self._done(lane_job.job[0])

        return end


class _View:
    """The graph as look-ahead sees it while the run goes on."""

    def __init__(
        self,
        jobs: Mapping[int, PlannedJob],
        readers: Mapping[int, Sequence[int]],
        done_s: Mapping[int, float],
    ) -> None:
        self._jobs, self._readers, self._done_s = jobs, readers, done_s

    def readers(self, job: int) -> Iterable[int]:
        """Return the jobs that read what a job writes."""
        return self._readers.get(job, ())

    def writers(self, job: int) -> Iterable[int]:
        """Return the jobs that write what a job reads."""
        return self._jobs[job].after

    def is_pending(self, job: int) -> bool:
        """Return whether a job has still to run, or is running."""
        return job in self._jobs and job not in self._done_s

    def is_servable(self, job: int) -> bool:
        """Return whether a pending job may be merged with the one before it."""
        return self._jobs[job].may_follow


def ways(jobs: Iterable[PlannedJob]) -> Counter[Way]:
    """Return how many jobs go each way."""
    return Counter(job.way for job in jobs)
