"""Jobs that the pool does not serve: they run in the lane, with leased devices if they need any."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import PoolEnded
from snakemake_executor_gpupool.frontends.snakemake.admission import LaneJob
from snakemake_executor_gpupool.frontends.snakemake.bundles import Bundle
from snakemake_executor_gpupool.frontends.snakemake.failures import (
    COMMAND_FAILED,
    is_of_command,
    words_of,
)
from snakemake_executor_gpupool.frontends.snakemake.log_plugins import tell_error, tell_started
from snakemake_executor_gpupool.frontends.snakemake.memory import asked_mb, too_much
from snakemake_executor_gpupool.frontends.snakemake.needs import Needs
from snakemake_executor_gpupool.frontends.snakemake.served import Done
from snakemake_executor_gpupool.frontends.snakemake.translate import facts_of, limit_s_of, title
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.jobs import NOT_STARTED
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.requests import JobReport

#: What is said of a job whose node was taken back.
LEFT = "its node was told to end; the job runs again elsewhere, which counts as no attempt"
#: How many nodes may be lost under a job without devices before it fails.
MAX_LOSSES = 3


class Expected:
    """Callbacks by the number of their job; any thread may call."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._done: dict[int, Done] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._done)

    def add(self, done: Done) -> int:
        """Return a job number; the report for it goes to ``done``."""
        with self._lock:
            job_id = next(self._ids)
            self._done[job_id] = done
        return job_id

    def take(self, job_id: int) -> Done | None:
        """Remove and return the callback of a job; None: there is none."""
        with self._lock:
            return self._done.pop(job_id, None)

    def take_all(self) -> list[Done]:
        """Remove and return all callbacks."""
        with self._lock:
            lost, self._done = list(self._done.values()), {}
        return lost

    def report(self, report: JobReport) -> None:
        """Pass a report to its job's callback."""
        done = self.take(report.job_id)
        if done is not None:
            done(report)


@dataclass(frozen=True, eq=False)
class Leased:
    """A job that waits for devices, or has them.

    Attributes
    ----------
    job
        Snakemake's job; a group for a bundle.
    needs
        The devices that it asks for.
    done
        Called with its report.
    goes_on
        It continues something that has begun.
    bundle
        Jobs that share the lease, each with a part of its own; None: the job has all of it.
    """

    job: Any
    needs: Needs
    done: Done
    goes_on: bool = False
    bundle: Bundle | None = None


class Alone:
    """Runs jobs in the lane.

    Parameters
    ----------
    pool
        Leases devices.
    lane
        Runs the jobs, here or on other machines.
    expected
        Callbacks of the jobs that wait for a lease.
    cluster
        Chooses where jobs run; None: here.
    limits_time
        Whether ``runtime`` is a limit for jobs that have devices.
    """

    def __init__(
        self,
        pool: Pool,
        lane: Any,
        expected: Expected,
        cluster: Any,
        logger: Any,
        *,
        limits_time: bool = True,
    ) -> None:
        self._limits_time = limits_time
        self._pool = pool
        self._lane = lane
        self._expected = expected
        self._cluster = cluster
        self._logger = logger
        self._leased: dict[int, Leased] = {}

    def lease(self, leased: Leased) -> None:
        """Ask for a job's devices; the job runs once they are granted."""
        job, needs = leased.job, leased.needs
        assert needs.spec is not None

        def done(report: JobReport) -> None:
            self._leased.pop(job_id, None)
            leased.done(report)

        job_id = self._expected.add(done)
        self._leased[job_id] = leased
        request = LeaseRequest(
            job_id,
            title(job),
            needs.spec,
            job.priority,
            needs.vram_mib,
            leased.goes_on,
            facts_of(job),
        )
        try:
            self._pool.lease(request)
        except PoolEnded as error:
            self._expected.report(JobReport(job_id, f"{request.title}: {error}"))

    def granted(
        self, job_id: int, devices: tuple[Device, ...], environment: dict[str, str]
    ) -> None:
        """Run a job whose devices were granted; called on the pool's reporting thread."""
        leased, done = self._leased.pop(job_id, None), self._expected.take(job_id)
        if leased is None or done is None:  # it was reported as failed meanwhile
            self._pool.lease_done(job_id)
            return
        if leased.bundle is not None:
            environment = leased.bundle.environment(devices, environment)

        def released(report: JobReport) -> None:
            self._pool.lease_done(job_id, report.error)
            done(report)

        def lost() -> None:
            self._pool.lease_done(job_id, f"{title(leased.job)}: its node was lost")
            self.lease(dataclasses.replace(leased, goes_on=True))

        node, goes_on = devices[0].host, leased.goes_on
        self.run(leased.job, released, environment, node, lost, goes_on=goes_on)

    def run(
        self,
        job: Any,
        done: Done,
        environment: dict[str, str] | None = None,
        node: str = "",
        lost: Callable[[], None] | None = None,
        *,
        goes_on: bool = False,
        losses: int = 0,
    ) -> None:
        """Run a job when there are threads for it.

        Parameters
        ----------
        environment
            Variables for a process of its own, beyond ours; None: it needs none.
        node
            The machine that its devices are on.
        lost
            Called if its machine was lost and the job can be tried on another one.
        goes_on
            It continues something that has begun: it starts even when nothing new may.
        losses
            How many machines were lost under it.
        """
        from snakemake_executor_gpupool.frontends.snakemake.local_jobs import NodeLost

        def ended(failure: BaseException | None) -> None:
            if failure is None:
                done(JobReport(0))
                return
            if isinstance(failure, NodeLost):
                if failure.is_told_to_end:
                    self._logger.warning(f"gpupool: {title(job)}: {LEFT}")
                if lost is not None:
                    lost()
                else:
                    self._again(job, done, losses + (not failure.is_told_to_end))
                return
            ran = is_of_command(failure)
            if ran and not self._lane.explain(failure):
                rule = None if job.is_group() else job.rule.name
                tell_error(self._logger, type(failure).__name__, words_of(failure), rule)
            done(JobReport(0, words_of(failure), details={COMMAND_FAILED: ran}))

        def withdrawn() -> None:
            done(JobReport(0, f"{title(job)}: {NOT_STARTED}", withdrawn=True))

        lane_job = LaneJob(
            job,
            int(job.threads),
            ended,
            environment or {},
            memory_mb=asked_mb(job),
            limit_s=limit_s_of(job) if environment and self._limits_time else None,
            priority=job.priority,
            starts=partial(self._starts, job),
            withdrawn=None if goes_on else withdrawn,
        )
        if self._cluster is not None:
            self._cluster.place(lane_job, node)
        budget_mb = self._lane.memory_mb
        if budget_mb is not None and lane_job.memory_mb > budget_mb:
            why = f"{title(job)}: {too_much(lane_job.memory_mb, budget_mb)}"
            done(JobReport(0, why))
            return
        self._lane.submit(lane_job)

    def _again(self, job: Any, done: Done, losses: int) -> None:
        """Run a job once more whose node was lost; Snakemake does not count it as an attempt."""
        if self._lane.is_cancelled:
            done(JobReport(0, f"{title(job)}: its node was lost"))
        elif losses > MAX_LOSSES:
            why = f"{losses} nodes were lost while it ran, perhaps because of it"
            done(JobReport(0, f"{title(job)}: {why}"))
        else:
            self.run(job, done, goes_on=True, losses=losses)

    def _starts(self, job: Any) -> None:
        """Mark a job's outputs as incomplete in Snakemake's records, and tell that it runs."""
        tell_started(self._logger, job.jobs if job.is_group() else [job])
        try:
            job.register()
        except OSError as error:
            self._logger.warning(
                f"gpupool: {title(job)}: its outputs cannot be marked as incomplete: {error}"
            )
