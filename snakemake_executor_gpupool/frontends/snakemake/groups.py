"""Groups that hold devices or have served members: each member runs as it would alone.

A member starts as soon as those whose outputs it reads have finished. Each asks for its own
devices and gives them back when it ends, so two that run side by side never see the same ones,
and none is held while a CPU member works. Members that a pipe or a service joins run at
the same time and in one process (``bundles``).

Any other group is one child Snakemake, as under a cluster's executor.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.failures import MEMBERS, of_members
from snakemake_executor_gpupool.frontends.snakemake.needs import NeedNotKnown, needs_of
from snakemake_executor_gpupool.frontends.snakemake.served import Done
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    evaluate_here,
    is_served,
    title,
)
from snakemake_executor_gpupool.wire.requests import JobReport

#: Members of a group that start and end together; usually a single one.
Unit = tuple[Any, ...]


def runs_by_member(group: Any) -> bool:
    """Return whether a group is run member by member: one is served, or may need a GPU.

    Raises
    ------
    Unservable
        A member's resources are malformed.
    """
    for member in group.jobs:
        try:
            if is_served(member) or needs_of(member).gpus:
                return True
        except NeedNotKnown:
            return True
        except Unservable as error:
            raise Unservable(f"{title(member)}: {error}") from None
    return False


def units_of(jobs: Iterable[Any]) -> list[Unit]:
    """Divide jobs into units that run together: joined by pipes or services, else one each."""
    joined: dict[Any, list[Any]] = {}
    for job in jobs:
        joined.setdefault(job.pipe_group or job, []).append(job)
    return [tuple(members) for members in joined.values()]


class GroupRun:
    """One run of a group, member by member.

    Parameters
    ----------
    group
        Snakemake's group job.
    start
        Starts a unit; its last argument says whether a member of the group has started before.
        It raises, or reports the unit's end to the callback, from any thread.
    later
        Runs a function on another thread: steps between members may wait for files.
    done
        Called once: when all have ended, or when nothing runs any more after a failure.
    """

    def __init__(
        self,
        group: Any,
        start: Callable[[Unit, Done, bool], None],
        later: Callable[[Callable[[], None]], object],
        done: Done,
    ) -> None:
        self._start = start
        self._later = later
        self._done = done
        self._lock = threading.Lock()
        self._running = 0
        self._has_begun = False
        self._errors: dict[Any, JobReport] = {}
        self._over: set[Any] = set()
        self._group = group
        self._withdrawn: JobReport | None = None
        units = units_of(job for level in group.toposorted for job in level)
        self._unit_of = {job: unit for unit in units for job in unit}
        self._waits_for = {unit: self._units_before(unit) for unit in units}

    def _units_before(self, unit: Unit) -> set[Unit]:
        before = {dep for job in unit for dep in job.dag.dependencies[job]}
        return {self._unit_of[dep] for dep in before if dep in self._unit_of} - {unit}

    def start(self) -> None:
        """Start the members that wait for no others."""
        self._later(self._start_ready)

    def _start_ready(self) -> None:
        with self._lock:
            ready = [unit for unit, before in self._waits_for.items() if not before]
            if self._errors or self._withdrawn:
                ready = []
            for unit in ready:
                del self._waits_for[unit]
            self._running += len(ready)
            is_over = self._running == 0
        if is_over:
            self._done(self._report())
        for unit in ready:
            self._start_unit(unit)

    def _report(self) -> JobReport:
        for report in self._errors.values():
            return JobReport(0, report.error, details={MEMBERS: self._errors})
        return self._withdrawn or JobReport(0)

    def _start_unit(self, unit: Unit) -> None:
        def ended(report: JobReport) -> None:
            self._later(lambda: self._ended(unit, report))

        try:
            for job in unit:
                # The outputs of earlier members exist only now.
                job._resources = job._params = None
                evaluate_here(job)
            self._start(unit, ended, self._has_begun)
        except Exception as error:
            ended(JobReport(0, f"{title(unit[0])}: {error}"))

    def _ended(self, unit: Unit, report: JobReport) -> None:
        with self._lock:
            is_awaited = any(unit in before for before in self._waits_for.values())
            if report.error is None and not report.withdrawn:
                self._over.update(unit)
            over = frozenset(self._over)
        errors = of_members(unit, report) if report.error is not None else {}
        if report.error is None and not report.withdrawn:
            errors = self._settled(unit, over, is_awaited=is_awaited)
        with self._lock:
            self._running -= 1
            if report.withdrawn:
                self._withdrawn = report
            else:
                self._has_begun = True
                self._errors.update(errors)
            for before in self._waits_for.values():
                before.discard(unit)
        self._start_ready()

    def _settled(
        self, unit: Unit, over: frozenset[Any], *, is_awaited: bool
    ) -> dict[Any, JobReport]:
        """Put a unit's outputs in place for later members, and remove what it was the last to read.

        Return the reports of any problems.
        """
        for job in unit:
            try:
                if is_awaited:
                    job.dag.workflow.async_run(settle(job))
                job.dag.workflow.async_run(remove_read(self._group, job, over))
            except Exception as error:
                return {job: JobReport(0, f"{title(job)}: {error}")}
        return {}


async def settle(job: Any) -> None:
    """Do for one member's outputs what Snakemake does only at the end of the whole group.

    Snakemake repeats it then, which changes nothing.
    """
    dag = job.dag
    dag.handle_touch(job)
    await dag.handle_log(job)
    await dag.check_and_touch_output(
        job,
        wait=dag.workflow.execution_settings.latency_wait,
        check_output_mtime=False,
    )
    if job.shadow_dir:
        dag.unshadow_output(job)
        job.shadow_dir = None
    dag.handle_protected(job)


async def remove_read(group: Any, job: Any, over: frozenset[Any]) -> None:
    """Remove the temporary files that a member has read, if it was the last to do so.

    Only those that nothing outside the group needs; see Snakemake's ``DAG.handle_temp``.

    Parameters
    ----------
    over
        The members that have finished, ``job`` among them.
    """
    dag, members, logger = job.dag, frozenset(group.jobs), logging.getLogger("snakemake.logging")
    producers = [each for each in dag.dependencies[job] if each in members]
    if dag.workflow.storage_settings.notemp or not producers:
        return
    unneeded = set(dag.get_unneeded_temp_files(group))
    for producer in producers:
        read = dag.dependencies[job][producer]
        for path in [path for path in producer.output if path in read and path in unneeded]:
            readers = {each for each, paths in dag.depending[producer].items() if path in paths}
            if readers & members <= over:
                logger.info(f"Removing temporary output {path}.")
                await path.remove(remove_non_empty_dir=True)
