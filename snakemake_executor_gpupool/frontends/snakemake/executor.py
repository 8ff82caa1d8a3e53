"""Snakemake's executor interface over the pool and the local lane.

Each ready job takes one of four ways::

    group with devices   ─► its members, each by one of these ways as soon as it can start
    served job           ─► pool
    job with devices     ─► lease from the pool ─► lane, in a process with these devices
    any other            ─► lane
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.process_environment import (
    hide_devices,
    show_devices,
    shown_to_jobs,
)
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.alone import Alone, Expected, Leased
from snakemake_executor_gpupool.frontends.snakemake.announcing import announce
from snakemake_executor_gpupool.frontends.snakemake.bundles import Bundle, part_of_group
from snakemake_executor_gpupool.frontends.snakemake.checks import (
    check_start,
    has_gpus,
    heed_missing_gpus,
    rules_without_gpu,
)
from snakemake_executor_gpupool.frontends.snakemake.collector import COLLECTOR
from snakemake_executor_gpupool.frontends.snakemake.cores import bound_threads, cpu_budget
from snakemake_executor_gpupool.frontends.snakemake.failures import tell_failure
from snakemake_executor_gpupool.frontends.snakemake.foreseeing import Foreseeing
from snakemake_executor_gpupool.frontends.snakemake.groups import GroupRun, Unit, runs_by_member
from snakemake_executor_gpupool.frontends.snakemake.halt import Halt
from snakemake_executor_gpupool.frontends.snakemake.interrupted import Interrupted
from snakemake_executor_gpupool.frontends.snakemake.log_plugins import tell_started
from snakemake_executor_gpupool.frontends.snakemake.many_inputs import ManyInputs
from snakemake_executor_gpupool.frontends.snakemake.memory import memory_budget
from snakemake_executor_gpupool.frontends.snakemake.needs import keep_words, needs_of
from snakemake_executor_gpupool.frontends.snakemake.pool_options import (
    of_this_run,
    pool_config,
)
from snakemake_executor_gpupool.frontends.snakemake.portions import JOBS_AT_ONCE, portions
from snakemake_executor_gpupool.frontends.snakemake.report import RunReport, report_path
from snakemake_executor_gpupool.frontends.snakemake.rounds import merge_rounds
from snakemake_executor_gpupool.frontends.snakemake.runtimes import tell_runtime
from snakemake_executor_gpupool.frontends.snakemake.savings import do_once_what_is_the_same
from snakemake_executor_gpupool.frontends.snakemake.served import Done, Serving
from snakemake_executor_gpupool.frontends.snakemake.servers import (
    attached_pool,
    check_server_option,
)
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.frontends.snakemake.signals import Signals
from snakemake_executor_gpupool.frontends.snakemake.timers import drop_timers
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    evaluate_here,
    is_prepared_here,
    is_served,
    title,
)
from snakemake_executor_gpupool.frontends.snakemake.updates import UpdatedOutputs, keep_untouched
from snakemake_executor_gpupool.runtime.broken import what_broke
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import (
    NO_GPU,
    Machines,
    PoolConfig,
)
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.wire.requests import JobReport

common_settings = CommonSettings(
    # Lets any number of jobs be ready at once: --jobs bounds them, cores do not.
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    spawned_jobs_assume_shared_fs=True,
)


class Executor(RealExecutor):
    """Serves rules from warm workers, gives GPU rules their devices, runs the rest locally."""

    def __post_init__(self) -> None:
        from snakemake_executor_gpupool.frontends.snakemake.local_jobs import LocalLane

        # Callers of Snakemake's API need not give settings.
        self.executor_settings: Any = self.workflow.executor_settings or ExecutorSettings()
        self._expected = Expected()
        self._cores = cpu_budget(self.workflow)
        self._cluster: Any = None
        config = self._configure()
        keep_words(self.workflow)
        try:
            self._refused = check_start(self.workflow, config, self.logger)
            self._pool = self._open_pool(config)
        except (WorkflowError, ConfigError) as error:
            if self._cluster is not None:
                self._cluster.host.close(lambda end: None)
            if isinstance(error, WorkflowError):
                raise
            raise WorkflowError(f"gpupool: {error}") from error
        on_nodes = self._cluster is not None and self.executor_settings.cpu_rules == "cluster"
        bound_threads(self.workflow, self._cores, self.logger, elsewhere=on_nodes)
        do_once_what_is_the_same(self.workflow, self.logger)
        self._lane = LocalLane(
            self.workflow,
            self.logger,
            self._cores,
            self._pool.watch_process,
            self._pool.forget_process,
            self._pool.fail,
            self._memory_mb,
        )
        limits = self.executor_settings.runtime_limits != "off"
        self._alone = Alone(
            self._pool, self._lane, self._expected, self._cluster, self.logger, limits_time=limits
        )
        self._signals = Signals(self._terminate, self._lane.kill, self._progress)
        self._halt = Halt(self.workflow, self._wind_down)
        self._many_inputs = ManyInputs()
        self._interrupted = Interrupted(self.workflow.persistence)
        # It is made before what builds requests.
        self._foreseeing = Foreseeing(self.workflow, lambda job: self._serving.model_of(job))  # noqa: PLW0108
        merges = self.executor_settings.merge != "off"
        self._serving = Serving(
            self.workflow,
            self._pool,
            self._expected.add,
            self._expected.report,
            merges=merges,
            wave_of=self._foreseeing.wave_of,
            tell_started=partial(tell_started, self.logger),
        )
        self._managed = (*config.devices, *config.expected)
        self._between_members = ThreadPoolExecutor(4, thread_name_prefix="gpupool-group")
        # From here on, what Snakemake starts itself (local rules, for example) sees no device.
        hide_devices()
        self._shows_devices = contextlib.ExitStack()
        self._shows_devices.callback(show_devices)
        # Jobs that run a tool by themselves, cold, follow the same mode.
        self._shows_devices.enter_context(shown_to_jobs(config.mode.variables()))

    def _open_pool(self, config: PoolConfig) -> Pool:
        tell = self.logger.info, self.logger.warning
        ends = self._expected.report, self._grant, self._broken
        callbacks = Callbacks(*ends, *tell, started=self._started, gathers=True)
        attached = attached_pool(self.workflow, self.executor_settings, config, callbacks)
        machines = (self._cluster.paths, self._cluster.host) if self._cluster else None
        return attached or Pool(config, callbacks, machines)

    def _configure(self) -> PoolConfig:
        settings = self.executor_settings
        try:
            self._report = report_path(settings.report)
            self._memory_mb = memory_budget(settings.memory)
            check_server_option(settings)
            find = self._bring_up_cluster if settings.cluster else None
            config = pool_config(self.workflow, settings, self._cores, find)
        except ConfigError as error:
            raise WorkflowError(f"gpupool: {error}") from error
        no_gpus = not has_gpus(config)
        for warning in config.warnings:
            asking = no_gpus and warning.startswith(NO_GPU)
            more = rules_without_gpu(self.workflow.dag.needrun_jobs()) if asking else ""
            self.logger.warning(f"gpupool: {warning}{more}")
        heed_missing_gpus(self.workflow, config, settings)
        return of_this_run(config, self.workflow, settings)

    def _bring_up_cluster(self, device_settings: DeviceSettings) -> Machines:
        from snakemake_executor_gpupool.frontends.snakemake.cluster import bring_up

        self._cluster, machines = bring_up(self.workflow, device_settings, self.logger)
        return machines

    # -- Snakemake's side ------------------------------------------------------------
    @property
    def cores(self) -> int:
        """How many threads all jobs may use."""
        return self._cores

    def get_exec_mode(self) -> ExecMode:
        """Return the mode of Snakemake children; the lane starts them."""
        return ExecMode.SUBPROCESS

    def get_python_executable(self) -> str:
        """Return the interpreter of Snakemake children."""
        return self._lane.get_python_executable()  # type: ignore[no-any-return]

    def run_jobs(self, jobs: list[Any]) -> None:
        """Take all jobs that are ready. Returns without waiting for any of them."""
        self._signals.catch()
        COLLECTOR.hold(len(self.workflow.dag))
        self._many_inputs.look(self.workflow.dag)
        if self._pool.config.looks_ahead and (forecast := self._foreseeing.look()) is not None:
            self._pool.foresee(forecast)
        # Snakemake passes them in no particular order.
        jobs = sorted(jobs, key=lambda job: -job.priority)
        with self._telling_of(jobs):
            for some in portions(jobs):
                for job in some:
                    evaluate_here(job)
                    self.run_job_pre(job)
                    self.run_job(job)
                self._serving.flush()

    @contextlib.contextmanager
    def _telling_of(self, jobs: list[Any]) -> Iterator[None]:
        """Tell the pool while many jobs are handed over: Snakemake does nothing else meanwhile."""
        if len(jobs) <= JOBS_AT_ONCE:
            yield
            return
        self._pool.handing_over(goes_on=True)
        try:
            yield
        finally:
            self._pool.handing_over(goes_on=False)

    def printjob(self, job: Any) -> None:
        """Have Snakemake say that a job starts."""
        announce(job)

    def run_job(self, job: Any) -> None:
        """Start a job in one of the four ways; a served one at the next :meth:`Serving.flush`."""
        info = SubmittedJobInfo(job)
        # A job that waits for threads or devices has not started, and may never start.
        self.report_job_submission(info, register_job=is_prepared_here(job))
        try:
            self._route(job, lambda report: self._finish(info, report))
        except Exception as error:
            self._finish(info, JobReport(0, f"{title(job)}: {error}"))

    def _route(self, job: Any, done: Done) -> None:
        if not job.is_group():
            self._route_job(job, done, self._serving.gather)
        elif runs_by_member(job):
            updated = UpdatedOutputs(self.workflow.persistence, job.jobs)
            start = partial(self._start_members, job)
            GroupRun(job, start, self._later, updated.kept_for(done)).start()
        else:
            self._alone.run(job, done)

    def _route_job(
        self,
        job: Any,
        done: Done,
        serve: Callable[[Any, Done], None],
        *,
        goes_on: bool = False,
    ) -> None:
        refused = self._refused.get(job.rule.name)
        if refused is not None:
            done(JobReport(0, f"{title(job)}: {refused}"))
            return
        if is_served(job):
            serve(job, done)
            return
        needs = needs_of(job)
        if needs.gpus:
            self._alone.lease(Leased(job, needs, done, goes_on))
        else:
            self._alone.run(job, done, goes_on=goes_on)

    def _later(self, act: Callable[[], None]) -> None:
        """Run a step between two members of a group on another thread."""

        def guarded() -> None:
            try:
                act()
            except BaseException as error:  # the thread pool would swallow it
                self._pool.fail(error)

        with contextlib.suppress(RuntimeError):  # the run is cancelled: nothing follows
            self._between_members.submit(guarded)

    def _start_members(self, group: Any, unit: Unit, done: Done, goes_on: bool) -> None:
        """Start members of a group that run together."""
        if len(unit) == 1 and unit[0].pipe_group is None:
            if unit[0].is_norun:
                done(JobReport(0))
            else:
                serve = partial(self._serving.serve, goes_on=goes_on)
                self._route_job(unit[0], done, serve, goes_on=goes_on)
            return
        bundle = Bundle.of(unit, self._managed)
        job = part_of_group(group, unit)
        if bundle.joint.gpus:
            self._alone.lease(Leased(job, bundle.joint, done, goes_on, bundle))
        else:
            self._alone.run(job, done, goes_on=goes_on)

    def shutdown(self) -> None:
        """Wait for running jobs, end every worker, write the summary."""
        self._halt.over()
        if self._halt.last_words():
            self.logger.warning(self._halt.last_words())
        self._lane.shutdown()
        self._serving.shutdown()
        self._between_members.shutdown()
        drop_timers(self.workflow.scheduler)
        report = self._run_report()
        self._pool.begin_close()
        report.read_so_far()
        self._pool.close()
        self._interrupted.remove_leftovers()
        report.leave()
        self._shows_devices.close()
        self._signals.over()
        COLLECTOR.over()

    def cancel(self) -> None:
        """End every worker and child at once; their jobs fail."""
        self._signals.ending()
        self._halt.over()
        self._expected.take_all()
        self._end_children(reports_waiting=False)
        self._pool.cancel("cancelled")
        self._serving.shutdown(wait=False)
        self._between_members.shutdown(wait=False, cancel_futures=True)
        killer = self._signals.kill_later()
        # Before the pool releases the devices that these children were leased.
        self._lane.pool.shutdown()
        self._pool.close()
        self._interrupted.remove_leftovers()
        self._shows_devices.close()
        killer.cancel()
        self._run_report().leave()
        self._signals.over()
        COLLECTOR.over()

    def _run_report(self) -> RunReport:
        tell, warn = self.logger.info, self.logger.warning
        return RunReport(self._pool.paths.directory, self._report, tell, warn)

    def _terminate(self, reason: str) -> None:
        """End all jobs in flight and report them as failed; any thread may call."""
        self._pool.cancel(reason)
        self._end_children(reports_waiting=True)

    def _end_children(self, *, reports_waiting: bool) -> None:
        """End the jobs that run beside the pool, here and on nodes."""
        self._lane.cancel(reports_waiting=reports_waiting)
        if self._cluster is not None:
            self._cluster.cancel()

    def _progress(self) -> tuple[int, ...]:
        """Return counters that change while the run makes progress."""
        scheduler = self.workflow.scheduler
        return (
            scheduler.finished_jobs,
            len(scheduler.running),
            len(self._expected),
            self._lane.running,
        )

    def _started(self, job_ids: list[int]) -> None:
        self._serving.started(job_ids)

    def _grant(self, job_id: int, devices: tuple[Device, ...], environment: dict[str, str]) -> None:
        self._alone.granted(job_id, devices, environment)

    # -- reports -----------------------------------------------------------------------
    def _wind_down(self) -> None:
        self._lane.wind_down()
        self._pool.wind_down()

    def handle_job_error(self, job: Any) -> None:
        """Handle a failed job, also one whose outputs Snakemake found missing."""
        self._halt.failed(job)

    def _finish(self, info: SubmittedJobInfo, report: JobReport) -> None:
        job = info.job
        if report.withdrawn:
            self._halt.withdrawn(job, is_prepared=is_prepared_here(job))
            return
        if report.error is None:
            self._halt.look()
            if report.seconds:
                tell_runtime(self.workflow.persistence, job, report.seconds)
            self.report_job_success(info)
            merge_rounds(self.workflow.scheduler)
            return
        self._halt.failed(job)
        try:
            keep_untouched(self.workflow.persistence, job)
            tell_failure(job, report, self.logger)
        finally:  # even if printing fails, Snakemake must learn that the job has ended
            self.workflow.scheduler.error_callback(job)

    def _broken(self, error: BaseException) -> None:
        """Report every job after the pool has failed, and end the run with the cause."""
        why = f"gpupool: {what_broke(error)}"
        try:
            lost = self._expected.take_all()
            self._signals.kill_later()
            self._end_children(reports_waiting=True)
            for done in lost:
                with contextlib.suppress(Exception):  # the others are reported all the same
                    done(JobReport(0, why))
        finally:
            self.workflow.scheduler.executor_error_callback(WorkflowError(why))
