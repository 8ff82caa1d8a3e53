"""Runs what the pool does not serve, as Snakemake's local executor would, within a CPU budget.

The inner executor *is* Snakemake's local one; only admission, the environment of GPU jobs
and ending processes are ours. What it would run in a process of its own (``run:``, shadow
rules), and every job with devices or in a group, runs in a child Snakemake; anything else
takes a thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from snakemake.exceptions import SpawnedJobError, print_exception
from snakemake.executors.local import Executor as LocalExecutor
from snakemake.executors.local import common_settings as local_settings
from snakemake.executors.local import run_wrapper
from snakemake_interface_executor_plugins.settings import CommonSettings

from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.frontends.snakemake.admission import Admission, LaneJob
from snakemake_executor_gpupool.frontends.snakemake.bundles import MEMBERS_VARIABLE
from snakemake_executor_gpupool.frontends.snakemake.last_words import Words
from snakemake_executor_gpupool.frontends.snakemake.updates import UpdatedOutputs
from snakemake_executor_gpupool.hosts.leftovers import Mark, wait_for
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE, LIMIT_CODE, TimeLimit

#: Runs a Snakemake whose jobs each see devices of their own.
MEMBERS_MODULE = "snakemake_executor_gpupool.frontends.snakemake.members"


class ChildFailed(SpawnedJobError):
    """A job's child Snakemake has failed; the message has the end of its output."""


class NodeLost(SpawnedJobError):
    """The machine that a job ran on was lost, and the job with it.

    Attributes
    ----------
    is_told_to_end
        The batch system wanted the machine back: nothing that the job did was the cause.
    """

    def __init__(self, *, is_told_to_end: bool = False) -> None:
        super().__init__()
        self.is_told_to_end = is_told_to_end


class TimeLimitReached(Exception):
    """A job took longer than its ``runtime``, and its processes were ended."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"it took longer than its limit, runtime={limit_s / 60:g} (minutes), and was ended. "
            "Give it more time (--set-resources RULE:runtime=...; runtime may be a function of "
            "attempt), or switch these limits off with --gpupool-runtime-limits off"
        )


class LocalLane(LocalExecutor):
    """Snakemake's local executor behind gpupool's own admission.

    Parameters
    ----------
    budget
        How many threads all its jobs may use.
    watch, forget
        Called with every process group that the lane starts, and the mark of what must end with
        it; and at its end.
    failed
        Called with an error on the lane's threads that is no job's: a job may be lost by it.
    memory_mb
        How much memory all its jobs may ask for; None: any.
    """

    def __init__(
        self,
        workflow: Any,
        logger: Any,
        budget: int,
        watch: Callable[[int, str], None],
        forget: Callable[[int], None],
        failed: Callable[[BaseException], None],
        memory_mb: int | None = None,
    ) -> None:
        self.memory_mb = memory_mb
        self._failed = failed
        self._budget = budget
        self._watch = watch
        self._forget = forget
        super().__init__(workflow, logger)

    def __post_init__(self) -> None:
        self.keepincomplete = self.workflow.execution_settings.keep_incomplete
        self._admission = Admission(self._budget, self.memory_mb)
        self._lock = threading.Lock()
        self._running: dict[int, LaneJob] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._cancelled = False
        self._is_winding_down = False
        # Threads are made as needed; jobs that claim no thread come on top of the budget.
        self.pool = ThreadPoolExecutor(max_workers=self._budget + 1024, thread_name_prefix="lane")

    @property
    def common_settings(self) -> CommonSettings:
        """Children get the settings that the local executor's children get."""
        return local_settings

    # -- work in -------------------------------------------------------------------
    def submit(self, job: LaneJob) -> None:
        """Run a job when there are threads for it."""
        with self._lock:
            is_late = self._cancelled and job.withdrawn is None
            job.threads = min(job.threads, self._budget)
            if not is_late:
                self._admission.add(job)
        if is_late:  # it was about to go on when all were ended
            job.done(SpawnedJobError())
            return
        self._start_admitted()

    def wind_down(self) -> None:
        """Start no more jobs. Returns at once."""
        self._is_winding_down = True
        self._start_admitted()

    def _start_admitted(self) -> None:
        with self._lock:
            new = self._admission.take_new() if self._is_winding_down else []
            started = [] if self._cancelled else self._admission.admit()
            for job in started:
                self._running[id(job)] = job
        for job in started:
            self.pool.submit(self._run, job)
        for job in new:
            assert job.withdrawn is not None
            # Not here: the caller may hold a lock of Snakemake's.
            self.pool.submit(self._withdraw, job.withdrawn)

    def _withdraw(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except BaseException as error:
            self._failed(error)

    def _run(self, lane_job: LaneJob) -> None:
        try:
            self._run_and_tell(lane_job)
        except BaseException as error:  # the thread pool would swallow it
            self._failed(error)

    def _run_and_tell(self, lane_job: LaneJob) -> None:
        failure: BaseException | None = None
        try:
            self._run_body(lane_job)
        except BaseException as error:
            failure = error
        with self._lock:
            self._running.pop(id(lane_job), None)
            self._admission.release(lane_job)
        if failure is not None:
            lane_job.done(failure)  # before others start: after a failure they may not start
        if not self._cancelled:
            self._start_admitted()
        if failure is None:
            lane_job.done(None)

    def _run_body(self, lane_job: LaneJob) -> None:
        if self._cancelled:
            raise SpawnedJobError
        lane_job.starts()
        job = lane_job.job
        in_process = job.is_group() or lane_job.environment or lane_job.elsewhere
        in_thread = not in_process and (job.is_template_engine or not (job.is_shadow or job.is_run))
        if lane_job.shell_elsewhere is not None:
            self._run_shell_elsewhere(lane_job)
        elif in_thread:
            self.cached_or_run(job, run_wrapper, *self.job_args_and_prepare(job))
        elif job.is_group():
            self._spawn(lane_job)
        else:
            self.cached_or_run(job, self._spawn, lane_job)

    def _run_shell_elsewhere(self, lane_job: LaneJob) -> None:
        """Run a shell job on a node, without a Snakemake there if the node can do it."""
        from snakemake_executor_gpupool.frontends.snakemake import node_shell
        from snakemake_executor_gpupool.hosts.cluster.shell_command import OTHER_PLACE_CODE

        job, run = lane_job.job, lane_job.shell_elsewhere
        assert run is not None
        wait_s = self.workflow.execution_settings.latency_wait
        command = node_shell.command_of(self.workflow, job, wait_s, self.envvars())
        arguments = self.job_args_and_prepare(job)
        try:
            node_shell.run_elsewhere(run, command, lambda: run_wrapper(*arguments))
        except node_shell.NotRun as error:
            if error.code == OTHER_PLACE_CODE:
                self._spawn(lane_job)
            else:
                check_exit(error.code)

    # -- children --------------------------------------------------------------------
    def _spawn(self, lane_job: LaneJob) -> None:
        job = lane_job.job
        updated = UpdatedOutputs(self.workflow.persistence, job.jobs if job.is_group() else [job])
        try:
            self._run_child(lane_job)
        except NodeLost:
            updated.put_back()
            raise
        except BaseException:
            updated.hand_over()
            raise
        finally:
            updated.forget()

    def _run_child(self, lane_job: LaneJob) -> None:
        command = self.format_job_exec(lane_job.job)
        if MEMBERS_VARIABLE in lane_job.environment:
            command = with_members(command)
        if lane_job.elsewhere is not None:
            check_exit(lane_job.elsewhere(command), limit_s=lane_job.limit_s)
            return
        # A failure in a group is reported with its reason, which only the child knows.
        is_grouped = lane_job.job.is_group() or lane_job.job.group is not None
        holds_devices = bool(lane_job.environment)
        mark = Mark(holds_devices=holds_devices)
        child = subprocess.Popen(  # noqa: S602 - Snakemake builds and quotes the command
            command,
            shell=True,
            env={**child_environment(lane_job.environment), **mark.variables},
            executable=shutil.which("bash"),
            start_new_session=True,
            stderr=subprocess.PIPE if is_grouped else None,
        )
        limit = TimeLimit(child.pid, lane_job.limit_s, others=mark.processes)
        words = Words(child.stderr) if child.stderr is not None else None
        self._watch(child.pid, mark.text)
        with self._lock:
            self._children[child.pid] = child
        if self._cancelled:
            self._signal_children(signal.SIGTERM)
        try:
            code = wait_for(child, holds_devices=holds_devices, ended=limit.over, mark=mark)
        finally:
            with self._lock:
                del self._children[child.pid]
            self._forget(child.pid)
        code = LIMIT_CODE if limit.is_reached else code
        check_exit(code, words.last() if words is not None else "", lane_job.limit_s)

    def envvars(self) -> dict[str, str]:
        """Return the variables that children inherit, without those that choose devices."""
        declared = super().envvars()
        return {name: declared[name] for name in declared if name not in visible_env(())}

    def get_job_args(self, job: Any, **kwargs: Any) -> str:
        """Give the child as many cores as the job has threads, and make it try once.

        Its ``--retries 0`` is only the default: a rule's own ``retries:`` wins, unless the rule
        counts as preemptible.
        """
        arguments = super().get_job_args(job, cores=max(int(job.threads), 1), **kwargs)
        return f"{arguments} --preemptible-rules --preemptible-retries 0"

    @property
    def job_specific_local_groupid(self) -> bool:
        """Whether a child that runs a group gets that group's id."""
        return True

    # -- ends ------------------------------------------------------------------------
    def explain(self, failure: BaseException) -> bool:
        """Print an error, unless the child has printed it; return whether it was printed here."""
        is_ours = not isinstance(failure, SpawnedJobError)
        if is_ours:
            print_exception(failure, self.workflow.linemaps)
        return is_ours

    def shutdown(self) -> None:
        """Wait for running jobs, then end."""
        self.pool.shutdown()

    def cancel(self, *, reports_waiting: bool = False) -> None:
        """End running jobs, and start no more.

        Running jobs are reported as they end; waiting ones only if ``reports_waiting``.
        """
        with self._lock:
            self._cancelled = True
            waiting = self._admission.clear()
        self._signal_children(signal.SIGTERM)
        signal_descendants(signal.SIGTERM)
        # Admitted jobs that have no thread yet end by themselves when they see the flag.
        self.pool.shutdown(wait=False)
        for job in waiting if reports_waiting else ():
            job.done(SpawnedJobError())

    def kill(self) -> None:
        """Kill the processes that did not end when asked to."""
        self._signal_children(signal.SIGKILL)
        signal_descendants(signal.SIGKILL)

    def _signal_children(self, number: int) -> None:
        with self._lock:
            children = list(self._children)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    @property
    def is_cancelled(self) -> bool:
        """Whether jobs are being ended, and none is started."""
        return self._cancelled

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)


def child_environment(of_the_job: dict[str, str]) -> dict[str, str]:
    """Return the environment of a child: no devices, or those of the job's lease."""
    return {**own_environment(), **(of_the_job or visible_env(()))}


def with_members(command: str) -> str:
    """Return the command of a child whose jobs each see devices of their own."""
    plain, own = f"{sys.executable} -m snakemake ", f"{sys.executable} -m {MEMBERS_MODULE} "
    assert plain in command, "Snakemake starts its children differently"
    return command.replace(plain, f"{own}-m snakemake ", 1)


def check_exit(code: int | None, words: str = "", limit_s: float | None = None) -> None:
    """Raise for a child that failed.

    Raises
    ------
    NodeLost
        There is no exit code: its machine was lost.
    ChildFailed
        The exit code is not 0.
    TimeLimitReached
        It was ended after so many seconds.
    """
    if code is None or code == LEFT_CODE:
        raise NodeLost(is_told_to_end=code == LEFT_CODE)
    if code == LIMIT_CODE and limit_s is not None:
        raise TimeLimitReached(limit_s)
    if code != 0:
        said = f", and printed last:\n{words}" if words else ""
        raise ChildFailed(f"its own Snakemake process ended with exit code {code}{said}")


def signal_descendants(number: int) -> None:
    """Signal every process that jobs in our threads have started, with all descendants.

    They are our descendants within our own session; workers and Snakemake children have
    sessions of their own. Ending only a job's shell would leave its commands running.
    """
    session = os.getsid(0)
    try:
        descendants = psutil.Process().children(recursive=True)
    except (psutil.Error, OSError):
        return
    for process in descendants:
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session:
                process.send_signal(number)
