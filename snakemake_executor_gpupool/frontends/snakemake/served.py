"""Served jobs on Snakemake's side: prepared and submitted in batches, reported one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.errors import PoolEnded
from snakemake_executor_gpupool.frontends.snakemake.containers import is_read
from snakemake_executor_gpupool.frontends.snakemake.following import Following
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    build_request,
    title,
    tool_key,
    tool_ref,
)
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

Done = Callable[[JobReport], None]


class Serving:
    """Sends served jobs to the pool.

    Gathered jobs are sent together: entering Snakemake's event loop, or sending a message to the
    pool's thread, costs as much as all other work for a small job.

    Parameters
    ----------
    workflow
        Snakemake's workflow.
    pool
        Serves the jobs.
    expect
        Returns the number of a job whose report goes to the given callback.
    report
        Called with the report of a job that has a number, but was never submitted.
    merges
        Whether to look for the jobs that follow, for merging.
    wave_of
        Returns in which wave of the forecast a job was; called once for each job.
    tell_started
        Called once for each job: when its first batch is sent, or it needed none. Any thread.
    """

    def __init__(
        self,
        workflow: Any,
        pool: Pool,
        expect: Callable[[Done], int],
        report: Done,
        *,
        merges: bool = True,
        wave_of: Callable[[Any], str] = lambda job: "",
        tell_started: Callable[[list[Any]], None] = lambda jobs: None,
    ) -> None:
        self._workflow = workflow
        self._pool = pool
        self._expect = expect
        self._report = report
        self._tools: dict[tuple[object, ...], ToolRef] = {}
        self._gathered: list[tuple[Any, Done]] = []
        self._following = Following(workflow, self._tool, lambda job: uses_cache(workflow, job))
        self._merges = merges
        self._wave_of = wave_of
        self._tell_started = tell_started
        self._unstarted: dict[int, Any] = {}
        # Snakemake's between-workflow cache may copy large files, which takes time.
        self._helpers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gpupool-helper")

    def gather(self, job: Any, done: Done) -> None:
        """Queue a job for the next :meth:`flush`."""
        if uses_cache(self._workflow, job):
            self._help(self._serve_cached, job, done)
        elif not is_read(self._workflow, job):
            self._help(self._serve_alone, job, done)
        else:
            self._gathered.append((job, done))

    def flush(self) -> None:
        """Prepare the gathered jobs and submit them to the pool."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._submit(self._prepared(gathered))

    def serve(self, job: Any, done: Done, *, goes_on: bool = False) -> None:
        """Prepare and submit one job; ``goes_on``: it continues something that has begun."""
        if uses_cache(self._workflow, job):
            self._help(self._serve_cached, job, done, goes_on)
        elif not is_read(self._workflow, job):
            self._help(self._serve_alone, job, done, goes_on)
        else:
            self._serve_alone(job, done, goes_on)

    def _serve_alone(self, job: Any, done: Done, goes_on: bool = False) -> None:
        """Prepare and submit a job; takes as long as reading its image, if that has changed."""
        self._submit(self._prepared([(job, done)]), goes_on=goes_on)

    def _help(self, act: Callable[..., None], job: Any, done: Done, *more: Any) -> None:
        """Run a step on another thread; an error there fails the job, or the run."""

        def guarded() -> None:
            try:
                act(job, done, *more)
            except BaseException as error:  # the thread pool would swallow it
                self._pool.fail(error)

        try:
            self._helpers.submit(guarded)
        except RuntimeError as error:  # the run is ending
            done(JobReport(0, f"{title(job)}: {error}"))

    def shutdown(self, *, wait: bool = True) -> None:
        """Take no more jobs."""
        self._helpers.shutdown(wait=wait, cancel_futures=not wait)

    def _prepared(self, jobs: list[tuple[Any, Done]]) -> list[tuple[Any, Done]]:
        """Have Snakemake prepare jobs; return them without those that failed at it."""
        ready = []

        async def prepare() -> None:
            for job, done in jobs:
                try:
                    await job.prepare()
                except Exception as error:
                    done(JobReport(0, f"{title(job)}: {error}"))
                else:
                    ready.append((job, done))

        self._workflow.async_run(prepare())
        return ready

    def _submit(self, jobs: list[tuple[Any, Done]], *, goes_on: bool = False) -> None:
        requests = []
        here = str(Path.cwd())
        for job, done in jobs:
            job_id = self._expect(self._noting_start(job, self._with_benchmark(job, done)))
            self._unstarted[job_id] = job
            try:
                requests.append(self._request(job, job_id, here, goes_on=goes_on))
            except Exception as error:
                self._report(JobReport(job_id, f"{title(job)}: {error}"))
        try:
            self._pool.submit(requests)
        except PoolEnded as error:
            for request in requests:
                self._report(JobReport(request.job_id, f"{request.title}: {error}"))

    def started(self, job_ids: Iterable[int]) -> None:
        """Note that items of these jobs, among others', are being computed."""
        started = [self._unstarted.pop(job_id, None) for job_id in job_ids]
        self._tell_started([job for job in started if job is not None])

    def _noting_start(self, job: Any, done: Done) -> Done:
        def ended(report: JobReport) -> None:
            if report.error is None:
                self.started([report.job_id])
            self._unstarted.pop(report.job_id, None)
            done(report)

        return ended

    def _request(self, job: Any, job_id: int, here: str, *, goes_on: bool) -> Request:
        more: dict[str, Any] = {"goes_on": goes_on, "wave": self._wave_of(job)}
        if self._merges and not uses_cache(self._workflow, job):
            request = self._following.request(job, job_id, here, **more)
            if request is not None:
                return request
            more["follow"] = self._following.requests(job, here)
        return build_request(self._workflow, job, job_id, self._tool(job), here=here, **more)

    def _tool(self, job: Any) -> ToolRef:
        """Return a rule's tool; looked up once per rule, since it means looking for files."""
        key = tool_key(self._workflow, job)
        if key not in self._tools:
            config = self._pool.config
            python, mode = config.python, config.mode
            places = [*self._pool.places, *([str(config.cache)] if config.cache else [])]
            self._tools[key] = tool_ref(self._workflow, job, python, mode, places)
        return self._tools[key]

    def _with_benchmark(self, job: Any, done: Done) -> Done:
        if job.benchmark is None:
            return done
        return lambda report: done(with_benchmark(self._workflow, job, report))

    def model_of(self, job: Any) -> Request | None:
        """Return what a job that is not ready will ask of its model; None: it is not known yet.

        Neither is it asked where there is no GPU: nothing is loaded ahead on the CPU.
        """
        config = self._pool.config
        has_gpus = any(map(is_gpu, (*config.devices, *config.expected)))
        return self._following.model_of(job) if has_gpus else None

    # -- Snakemake's cache between workflows -------------------------------------------
    def _serve_cached(self, job: Any, done: Done, goes_on: bool = False) -> None:
        """Serve a job of a rule with ``cache:``, unless the cache has its outputs."""
        from snakemake.exceptions import CacheMissException

        def store(report: JobReport) -> None:
            if report.error is None:
                self._help(self._store_cached, job, done, report)
            else:
                done(report)

        try:
            self._workflow.async_run(job.prepare())
            self._workflow.async_run(job.rule.cache.fetch(job))
        except CacheMissException:
            self._submit([(job, store)], goes_on=goes_on)
        except Exception as error:
            done(JobReport(0, f"{title(job)}: the cache failed: {error}"))
        else:
            done(JobReport(0))

    def _store_cached(self, job: Any, done: Done, report: JobReport) -> None:
        try:
            self._workflow.async_run(job.rule.cache.store(job))
        except Exception as error:
            report = JobReport(report.job_id, f"{title(job)}: the cache failed: {error}")
        done(report)


def uses_cache(workflow: Any, job: Any) -> bool:
    """Return whether a job's outputs are kept in Snakemake's between-workflow cache."""
    return bool(
        workflow.workflow_settings.cache is not None and job.rule.cache and job.rule.cache.output
    )


def with_benchmark(workflow: Any, job: Any, report: JobReport) -> JobReport:
    """Write a job's benchmark file: its share of the time of its batches.

    With ``--benchmark-extended`` its resources say what it took of devices, too.
    """
    if job.benchmark is None or report.error is not None:
        return report
    from snakemake.benchmark import BenchmarkRecord, write_benchmark_records

    record = BenchmarkRecord(running_time=report.seconds, input=job.input)
    # Not through the constructor, which makes tuples of these that its columns cannot show.
    record.jobid, record.rule_name = job.jobid, job.rule.name
    record.wildcards, record.params, record.threads = job.wildcards, job.params, job.threads
    cost = {f"gpupool_{name}": value for name, value in report.cost.items()}
    record.resources = {**dict(job.resources.items()), **cost}
    # Memory and processor time are the worker's, shared by many jobs: they are not measured.
    record.process_gone = True
    records = [record] * (job.benchmark_repeats or 1)
    try:
        write_benchmark_records(
            records, str(job.benchmark), workflow.output_settings.benchmark_extended
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return JobReport(report.job_id, f"{title(job)}: cannot write its benchmark: {error}")
    return report
