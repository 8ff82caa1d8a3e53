"""Snakemake's executor interface over the pool and the local lane.

Each ready job takes one of four ways::

    group of served jobs ─► its members, level by level, to the pool
    served job           ─► pool
    job with devices     ─► lease from the pool ─► lane, in a process with these devices
    any other            ─► lane
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

from snakemake_executor_gpupool.actions import Callbacks
from snakemake_executor_gpupool.config import PoolConfig, available_cores, build_config
from snakemake_executor_gpupool.devices.model import Device
from snakemake_executor_gpupool.dispatch import DispatchConfig
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.executor.checks import check_start
from snakemake_executor_gpupool.executor.software import Unservable
from snakemake_executor_gpupool.executor.translate import (
    build_request,
    device_request,
    is_served,
    title,
)
from snakemake_executor_gpupool.pool import Pool
from snakemake_executor_gpupool.request import JobReport
from snakemake_executor_gpupool.scheduler import LeaseRequest

common_settings = CommonSettings(
    # Lets any number of jobs be ready at once: --jobs bounds them, cores do not.
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    spawned_jobs_assume_shared_fs=True,
)

#: How long children may take to end before they are killed.
CANCEL_GRACE_S = 5.0

Done = Callable[[JobReport], None]


class Executor(RealExecutor):
    """Serves rules from warm workers, gives GPU rules their devices, runs the rest locally."""

    def __post_init__(self) -> None:
        from snakemake_executor_gpupool.executor.lane import LocalLane

        self._ids = itertools.count(1)
        self._done: dict[int, Done] = {}
        self._leased: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._signals_caught = False
        self._cores = cpu_budget(self.workflow)
        config = self._configure()
        check_start(self.workflow, config, self.logger)
        callbacks = Callbacks(self._report, self._grant, self._broken, self.logger.info)
        self._pool = Pool(config, callbacks)
        self._lane = LocalLane(
            self.workflow,
            self.logger,
            self._cores,
            self._pool.watch_process,
            self._pool.forget_process,
        )
        # Snakemake's between-workflow cache may copy large files, which no other thread waits for.
        self._helpers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gpupool-helper")

    def _configure(self) -> PoolConfig:
        settings = self.workflow.executor_settings
        try:
            config = build_config(
                run_root=Path(self.workflow.persistence.path) / "gpupool",
                cores=self._cores,
                managed_devices=settings.devices,
                offload_strategy=settings.offload_strategy,
                # A flag can only say yes; without it the environment decides.
                allow_multiple_per_device=settings.allow_multiple_per_device or None,
                dispatch=DispatchConfig(
                    batch_window_s=settings.batch_window,
                    idle_timeout_s=settings.idle_timeout,
                ),
                cache=settings.cache,
            )
        except ConfigError as error:
            raise WorkflowError(f"gpupool: {error}") from error
        for warning in config.warnings:
            self.logger.warning(f"gpupool: {warning}")
        return config

    # -- Snakemake's side ------------------------------------------------------------
    @property
    def cores(self) -> int:
        """How many threads jobs may use together."""
        return self._cores

    def get_exec_mode(self) -> ExecMode:
        """Return the mode of Snakemake children; the lane starts them."""
        return ExecMode.SUBPROCESS

    def get_python_executable(self) -> str:
        """Return the interpreter of Snakemake children."""
        return self._lane.get_python_executable()  # type: ignore[no-any-return]

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take the whole set of ready jobs; returns without waiting for any."""
        self._catch_sigterm()
        for job in jobs:
            self.run_job_pre(job)
            self.run_job(job)

    def run_job(self, job: Any) -> None:
        """Send a job its way."""
        info = SubmittedJobInfo(job)
        self.report_job_submission(info)
        try:
            self._route(job, lambda report: self._finish(info, report))
        except Unservable as error:
            self._finish(info, JobReport(0, f"{title(job)}: {error}"))

    def _route(self, job: Any, done: Done) -> None:
        if job.is_group():
            members = list(job.jobs)
            if all(is_served(member) for member in members):
                GroupRun(job, self._serve, done).start()
                return
            spec = group_devices(job)
        elif is_served(job):
            self._serve(job, done)
            return
        else:
            spec = device_request(job)
        if spec is None or spec.kind == "cpu":
            self._run_in_lane(job, done, {})
        else:
            self._lease(job, spec, done)

    def shutdown(self) -> None:
        """Wait for what runs, end every worker, write the summary."""
        self._lane.shutdown()
        self._helpers.shutdown()
        self._pool.close()

    def cancel(self) -> None:
        """End every worker and child; what they were at is not finished."""
        with self._lock:
            self._done.clear()
        self._lane.cancel()
        self._pool.cancel("cancelled")
        self._helpers.shutdown(wait=False, cancel_futures=True)
        killer = self._kill_later()
        self._pool.close()
        self._lane.pool.shutdown()
        killer.cancel()

    def _catch_sigterm(self) -> None:
        """Make SIGTERM end the jobs in flight, where Snakemake alone would wait for them."""
        if self._signals_caught or threading.current_thread() is not threading.main_thread():
            return
        self._signals_caught = True
        before = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: Any) -> None:
            # Snakemake's handler takes locks that the interrupted main thread may hold.
            threading.Thread(target=self._terminate, args=(before,), daemon=True).start()

        signal.signal(signal.SIGTERM, terminate)

    def _terminate(self, before: Any) -> None:
        if callable(before):
            before(signal.SIGTERM, None)
        self._pool.cancel("ended by SIGTERM")
        self._lane.cancel()
        self._kill_later()

    def _kill_later(self) -> threading.Timer:
        """Kill the children that have not ended when their time to do so is up."""
        killer = threading.Timer(CANCEL_GRACE_S, self._lane.kill)
        # The threads that wait for these children keep the process up; this must not.
        killer.daemon = True
        killer.start()
        return killer

    # -- ways ----------------------------------------------------------------------------
    def _serve(self, job: Any, done: Done) -> None:
        if uses_cache(self.workflow, job):
            self._helpers.submit(self._serve_cached, job, done)
        else:
            self._submit(job, done)

    def _submit(self, job: Any, done: Done, *, prepared: bool = False) -> None:
        job_id = next(self._ids)
        try:
            if not prepared:
                self.workflow.async_run(job.prepare())
            request = build_request(self.workflow, job, job_id, python=self._pool.config.python)
        except (Unservable, WorkflowError, OSError) as error:
            done(JobReport(job_id, f"{title(job)}: {error}"))
            return
        with self._lock:
            self._done[job_id] = lambda report: done(with_benchmark(self.workflow, job, report))
        self._pool.submit(request)

    def _serve_cached(self, job: Any, done: Done) -> None:
        """Serve a job of a rule with ``cache:``, unless another workflow left its outputs."""
        from snakemake.exceptions import CacheMissException

        def store(report: JobReport) -> None:
            if report.error is None:
                self._helpers.submit(self._store_cached, job, report, done)
            else:
                done(report)

        try:
            self.workflow.async_run(job.prepare())
            self.workflow.async_run(job.rule.cache.fetch(job))
        except CacheMissException:
            self._submit(job, store, prepared=True)
        except Exception as error:
            done(JobReport(0, f"{title(job)}: the cache failed: {error}"))
        else:
            done(JobReport(0))

    def _store_cached(self, job: Any, report: JobReport, done: Done) -> None:
        try:
            self.workflow.async_run(job.rule.cache.store(job))
        except Exception as error:
            report = JobReport(report.job_id, f"{title(job)}: the cache failed: {error}")
        done(report)

    def _lease(self, job: Any, spec: Any, done: Done) -> None:
        job_id = next(self._ids)
        with self._lock:
            self._done[job_id] = done
            self._leased[job_id] = job
        vram = job.resources.get("vram_mb")
        self._pool.lease(
            LeaseRequest(job_id, title(job), spec, priority=job.priority, vram_mib=vram)
        )

    def _grant(self, job_id: int, devices: tuple[Device, ...], environment: dict[str, str]) -> None:
        with self._lock:
            job, done = self._leased.pop(job_id), self._done.pop(job_id, None)

        def released(report: JobReport) -> None:
            self._pool.lease_done(job_id)
            if done is not None:
                done(report)

        self._run_in_lane(job, released, environment)

    def _run_in_lane(self, job: Any, done: Done, environment: dict[str, str]) -> None:
        from snakemake_executor_gpupool.executor.lane import LaneJob

        def ended(failure: BaseException | None) -> None:
            if failure is None:
                done(JobReport(0))
                return
            self._lane.explain(failure)
            done(JobReport(0, ""))

        threads = int(job.threads)
        self._lane.submit(LaneJob(job, threads, ended, environment))

    # -- reports -----------------------------------------------------------------------
    def _report(self, report: JobReport) -> None:
        with self._lock:
            done = self._done.pop(report.job_id, None)
            self._leased.pop(report.job_id, None)
        if done is not None:
            done(report)

    def _finish(self, info: SubmittedJobInfo, report: JobReport) -> None:
        if report.error is None:
            self.report_job_success(info)
            return
        note_in_log(info.job, report.error)
        self.report_job_error(info, msg=report.error or None)

    def _broken(self, error: BaseException) -> None:
        self.workflow.scheduler.executor_error_callback(
            WorkflowError(f"gpupool itself failed, which is a bug: {error!r}")
        )


class GroupRun:
    """A group whose members are all served: one level of it after the other.

    Parameters
    ----------
    serve
        Sends one member to the pool.
    done
        Told once, when the last member has ended or the first has failed.
    """

    def __init__(self, group: Any, serve: Callable[[Any, Done], None], done: Done) -> None:
        self._levels = [list(level) for level in group.toposorted]
        self._serve = serve
        self._done = done
        self._lock = threading.Lock()
        self._open = 0
        self._error: str | None = None

    def start(self) -> None:
        """Send the first level."""
        self._next_level()

    def _next_level(self) -> None:
        if not self._levels or self._error is not None:
            self._done(JobReport(0, self._error))
            return
        level = self._levels.pop(0)
        self._open = len(level)
        for job in level:
            self._serve(job, self._member_done)

    def _member_done(self, report: JobReport) -> None:
        with self._lock:
            self._open -= 1
            self._error = self._error or report.error
            is_last = self._open == 0
        if is_last:
            self._next_level()


def group_devices(group: Any) -> Any:
    """Return what a group that runs by itself needs at its widest level; None: no device."""
    from snakemake_executor_gpupool.devices.strings import gpus

    widest = 0
    for level in group.toposorted:
        specs = [device_request(job) for job in level]
        named = [spec for spec in specs if spec is not None and spec.names]
        if named:
            return named[0]
        widest = max(widest, sum(spec.count for spec in specs if spec and spec.kind == "cuda"))
    return gpus(widest) if widest else None


def cpu_budget(workflow: Any) -> int:
    """Return how many threads jobs may use: ``--cores``, else ``--local-cores``, else all."""
    settings = workflow.resource_settings
    for given in (settings.cores, getattr(settings, "local_cores", None)):
        if given and given < os.sysconf("SC_NPROCESSORS_ONLN") * 64:
            return int(given)
    return available_cores()


def uses_cache(workflow: Any, job: Any) -> bool:
    """Tell whether a job's outputs are kept in Snakemake's between-workflow cache."""
    return bool(
        workflow.workflow_settings.cache is not None and job.rule.cache and job.rule.cache.output
    )


def note_in_log(job: Any, message: str) -> None:
    """Append what went wrong to the job's own log, if it has one and can be written."""
    if job.is_group() or not job.log or not message:
        return
    try:
        with open(job.log[0], "a", encoding="utf-8") as log:  # noqa: PTH123
            log.write(f"gpupool: {message}\n")
    except OSError:
        # The error itself is reported to Snakemake; the log is a courtesy.
        return


def with_benchmark(workflow: Any, job: Any, report: JobReport) -> JobReport:
    """Write a job's benchmark file: its share of the time of its batches."""
    if job.benchmark is None or report.error is not None:
        return report
    from snakemake.benchmark import BenchmarkRecord, write_benchmark_records

    record = BenchmarkRecord(
        jobid=job.jobid,
        rule_name=job.rule.name,
        wildcards=job.wildcards,
        params=job.params,
        running_time=report.seconds,
        resources=job.resources,
        threads=job.threads,
        input=job.input,
    )
    # Memory and processor time are the worker's, shared by many jobs: they are not measured.
    record.process_gone = True
    records = [record] * (job.benchmark_repeats or 1)
    try:
        write_benchmark_records(
            records, str(job.benchmark), workflow.output_settings.benchmark_extended
        )
    except (OSError, ValueError, TypeError) as error:
        return JobReport(report.job_id, f"{title(job)}: cannot write its benchmark: {error}")
    return report
