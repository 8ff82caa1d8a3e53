"""Snakemake's graph of jobs as :class:`~.planned.Graph` has it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, GpupoolError
from snakemake_executor_gpupool.frontends.snakemake.checks import (
    BODILESS,
    device_problem,
    find_bundle_problems,
    find_problems,
    heed_missing_gpus,
    is_bodiless,
    local_rules,
)
from snakemake_executor_gpupool.frontends.snakemake.cores import cpu_budget
from snakemake_executor_gpupool.frontends.snakemake.following import (
    DagView,
    Following,
    is_known,
    is_plain,
)
from snakemake_executor_gpupool.frontends.snakemake.groups import units_of
from snakemake_executor_gpupool.frontends.snakemake.name_checks import misspelt_names
from snakemake_executor_gpupool.frontends.snakemake.needs import keep_words, needs_of
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.frontends.snakemake.pool_options import pool_config
from snakemake_executor_gpupool.frontends.snakemake.served import uses_cache
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    build_request,
    evaluate_here,
    is_served,
    title,
    tool_key,
    tool_ref,
)
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.requests import ToolRef

#: Of how many files Snakemake's records are looked through, for rules whose jobs have none.
MAX_RECORDS = 2000


def plain_graph(workflow: Any, settings: Any) -> Graph:
    """Return the graph of a workflow that was built and not run.

    Raises
    ------
    ConfigError
        The devices are not as the options say, or those of a cluster that is not there yet.
    """
    config = _config(workflow, settings)
    keep_words(workflow)
    jobs = Jobs(workflow, config, merges=settings.merge != "off")
    planned = jobs.planned()
    limits, timespan = workflow.resource_settings, workflow.scheduling_settings
    rate = timespan.max_jobs_per_timespan
    return Graph(
        jobs=planned,
        config=config,
        directory=str(Path.cwd()),
        max_jobs=None if limits.nodes in (None, sys.maxsize) else int(limits.nodes),
        jobs_a_second=rate.max_jobs / max(rate.timespan, 1) if rate is not None else None,
        local_cores=int(getattr(limits, "local_cores", None) or cpu_budget(workflow)),
        records_s=jobs.records_s(),
        checkpoints=jobs.checkpoints,
        built_s=seconds_since_start(),
    )


def _config(workflow: Any, settings: Any) -> PoolConfig:
    if settings.cluster:
        raise ConfigError(
            "--gpupool-cluster: the nodes of a cluster are not known before they join. Plan "
            "without it, and say with --devices what the nodes will have"
        )
    config = pool_config(workflow, settings, cpu_budget(workflow))
    heed_missing_gpus(workflow, config, settings)
    return config


def seconds_since_start() -> float:
    """Return for how many seconds this process has been there, its interpreter's start included."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.process_time()


class Jobs:
    """Makes values of the jobs that have to run.

    Parameters
    ----------
    merges
        Whether short jobs may be merged with those that follow.
    """

    def __init__(self, workflow: Any, config: PoolConfig, *, merges: bool) -> None:
        self._workflow = workflow
        self._config = config
        self._merges = merges
        self._dag = workflow.dag
        self._jobs = sorted(self._dag.needrun_jobs(), key=_order)
        self._number = {job: number for number, job in enumerate(self._jobs, 1)}
        self._tools: dict[tuple[object, ...], ToolRef] = {}
        self._view = DagView(self._dag, self._is_cached)
        self._following = Following(workflow, self._tool, self._is_cached)
        self._local = local_rules(self._jobs)
        self._refused = self._refusals()
        self._records: dict[str, list[float]] = defaultdict(list)
        #: Rules that will change the graph, and how many of their jobs have still to run.
        self.checkpoints = dict(Counter(j.rule.name for j in self._jobs if j.is_checkpoint))

    def _is_cached(self, job: Any) -> bool:
        return uses_cache(self._workflow, job)

    def _refusals(self) -> dict[str, str]:
        """Return the rules that cannot be run, each with the reason."""
        refused: dict[str, str] = {}
        first = {job.rule.name: job for job in reversed(self._jobs)}
        for name, job in first.items():
            if is_bodiless(job):
                refused[name] = BODILESS
            elif name not in self._local:
                problems = find_problems(self._workflow, job, self._config)
                refused.update((name, "; ".join(problems)) for _ in problems[:1])
        refused.update(misspelt_names(self._workflow.rules))
        for problem in find_bundle_problems(self._jobs, self._config):
            names = problem.removeprefix("rules ").partition(", which")[0].split(", ")
            refused.update(dict.fromkeys(names, problem))
        return refused

    def planned(self) -> list[PlannedJob]:
        """Return all jobs."""
        joined = {id(job) for unit in units_of(self._jobs) if len(unit) > 1 for job in unit}
        groups: dict[Any, int] = {}
        planned = []
        for job, number in self._number.items():
            group = self._dag.get_job_group(job)
            if group is not None:
                groups.setdefault(id(group), len(groups) + 1)
            each = self._plan(job, number, is_joined=id(job) in joined)
            in_group = None if group is None else groups[id(group)]
            planned.append(dataclasses.replace(each, group=in_group))
        return planned

    def _plan(self, job: Any, number: int, *, is_joined: bool) -> PlannedJob:
        name = job.rule.name
        common = PlannedJob(
            number=number,
            rule=name,
            title=title(job),
            way=Way.PLAIN,
            after=self._after(job),
            has_inputs=all(map(os.path.exists, map(str, job.input))),
            refused=self._refused.get(name, ""),
        )
        if name in self._local:
            way = Way.NOTHING if job.is_norun else Way.LOCAL
            ran_s = None if job.is_norun else self._recorded(job)
            return dataclasses.replace(common, way=way, ran_s=ran_s)
        try:
            return self._routed(job, common, is_joined=is_joined)
        except GpupoolError as error:
            return dataclasses.replace(common, refused=common.refused or str(error))
        except Exception as error:
            # Resources may depend on files that do not exist yet.
            why = f"what it needs is not known yet ({type(error).__name__}: {error})"
            return dataclasses.replace(common, is_known=False, refused=common.refused or why)

    def _routed(self, job: Any, common: PlannedJob, *, is_joined: bool) -> PlannedJob:
        evaluate_here(job)
        known = is_known(job)
        threads = max(int(job.threads), 0) if known else 1
        common = dataclasses.replace(common, threads=threads, priority=job.priority, is_known=known)
        if is_served(job) and not is_joined:
            return self._served(job, common)
        needs = needs_of(job)
        own_process = bool(needs.gpus or is_joined or job.is_run or job.is_shadow)
        common = dataclasses.replace(common, own_process=own_process, ran_s=self._recorded(job))
        if not needs.gpus:
            return common
        assert needs.spec is not None
        problem = device_problem(needs, self._config)
        lease = LeaseRequest(common.number, common.title, needs.spec, job.priority, needs.vram_mib)
        refused = common.refused or problem or ""
        return dataclasses.replace(common, way=Way.LEASED, lease=lease, refused=refused)

    def _served(self, job: Any, common: PlannedJob) -> PlannedJob:
        common = dataclasses.replace(common, way=Way.SERVED)
        request = build_request(self._workflow, job, common.number, self._tool(job))
        is_near = all(map(self._following.is_near, job.output))
        merges = self._merges and is_near and common.is_known and not self._is_cached(job)
        return dataclasses.replace(
            common,
            request=request,
            may_lead=merges and is_plain(job) and job.attempt == 1,
            may_follow=merges and self._view.is_servable(job),
        )

    def _after(self, job: Any) -> tuple[int, ...]:
        before = {self._number[dep] for dep in self._view.writers(job) if dep in self._number}
        return tuple(sorted(before))

    def _tool(self, job: Any) -> ToolRef:
        key = tool_key(self._workflow, job)
        if key not in self._tools:
            python, mode, cache = self._config.python, self._config.mode, self._config.cache
            self._tools[key] = tool_ref(
                self._workflow, job, python, mode, [str(cache)] if cache else []
            )
        return self._tools[key]

    # -- Snakemake's records ---------------------------------------------------------
    def _recorded(self, job: Any) -> float | None:
        """Return what a job took when it last ran, if Snakemake has kept that."""
        for output in job.output[:1]:
            with contextlib.suppress(Exception):
                seconds = _duration_s(self._workflow.persistence.metadata(output))
                if seconds is not None:
                    self._records[job.rule.name].append(seconds)
                    return seconds
        return None

    def records_s(self) -> dict[str, list[float]]:
        """Return what jobs of each rule took, by the records of all files."""
        names = {job.rule.name for job in self._jobs} - set(self._records)
        if names:
            for name, seconds in self._all_records():
                if name in names:
                    self._records[name].append(seconds)
        return dict(self._records)

    def _all_records(self) -> Iterator[tuple[str, float]]:
        root = getattr(self._workflow.persistence, "_metadata_path", None)
        if root is None:  # they are in a database
            return
        for path in itertools.islice(_files_below(Path(root)), MAX_RECORDS):
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                record = json.loads(path.read_bytes())
                seconds = _duration_s(record)
                if seconds is not None and isinstance(record.get("rule"), str):
                    yield record["rule"], seconds


def _order(job: Any) -> tuple[str, ...]:
    return title(job), *map(str, job.output)


def _files_below(root: Path) -> Iterable[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def _duration_s(record: Any) -> float | None:
    """Return how long a job took by its record; None: it does not say."""
    if record is None:
        return None
    start_s, end_s = record.get("starttime"), record.get("endtime")
    if not isinstance(start_s, int | float) or not isinstance(end_s, int | float):
        return None
    return max(end_s - start_s, 0.0)
