"""A workflow without Snakemake: what the executor asks of one, and the jobs that a test makes.

Files, params and resources are Snakemake's own classes. There is no scheduler, no graph beyond
what a test says, and no process: a pool over a host in memory serves, and a lane's job does what
the test gives it to do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.io import IOFile
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList

from snakemake_executor_gpupool.frontends.snakemake import executor as executor_module
from snakemake_executor_gpupool.frontends.snakemake import local_jobs
from snakemake_executor_gpupool.frontends.snakemake.executor import Executor
from snakemake_executor_gpupool.frontends.snakemake.local_jobs import LocalLane
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.frontends.snakemake.signals import Signals
from snakemake_executor_gpupool.frontends.snakemake.translate import TOOL
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.pool import Pool
from tests.unit.answering import AnsweringHost
from tests.waiting import PATIENCE_S


class Lines(logging.Handler):
    """Keeps what the executor says."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def told(self) -> list[str]:
        """What was said of each failed job."""
        return [str(record.told)[:300] for record in self.records if hasattr(record, "told")]

    @property
    def text(self) -> str:
        return "\n".join(record.getMessage() for record in self.records)


class StubScheduler:
    """Hears of jobs, from any thread, as Snakemake's scheduler does."""

    def __init__(self) -> None:
        self.running: set[Any] = set()
        self.submitted: list[Any] = []
        self.finished: list[Any] = []
        self.failures: list[Any] = []
        self.ended_with: BaseException | None = None
        self.failed: set[Any] = set()
        self.finished_jobs = 0
        self.lines = Lines()
        self._changed = threading.Condition()

    def _note(self, where: list[Any], job: Any) -> None:
        with self._changed:
            where.append(job)
            self._changed.notify_all()

    def submit_callback(self, job: Any) -> None:
        self.running.add(job)
        self._note(self.submitted, job)

    def finish_callback(self, job: Any) -> None:
        assert job in self.running, f"{job} is reported once"
        self.running.discard(job)
        self.finished_jobs += 1
        self._note(self.finished, job)

    def error_callback(self, job: Any) -> None:
        assert job in self.running, f"{job} is reported once"
        self.running.discard(job)
        self._note(self.failures, job)

    def executor_error_callback(self, error: BaseException) -> None:
        with self._changed:
            self.ended_with = error
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), (
                f"finished: {self.finished}, failed: {self.failures}, running: {self.running}, "
                f"ended with: {self.ended_with}, told: {self.lines.told}"
            )


class StubDag:
    """Which job reads what another one writes."""

    def __init__(self, workflow: Any) -> None:
        self.workflow = workflow
        self.dependencies: dict[Any, dict[Any, set[str]]] = defaultdict(dict)
        self.depending: dict[Any, dict[Any, set[str]]] = defaultdict(dict)
        self.settled: list[str] = []
        self.unsettled: set[str] = set()
        self.temporary: set[str] = set()
        self.done: set[Any] = set()

    @property
    def jobs(self) -> list[Any]:
        return self.workflow.jobs

    @property
    def checkpoint_jobs(self) -> set[Any]:
        return {job for job in self.workflow.jobs if job.is_checkpoint}

    def __len__(self) -> int:
        return len(self.workflow.jobs)

    def needrun_jobs(self) -> list[Any]:
        return [job for job in self.workflow.jobs if job not in self.done]

    def needrun(self, job: Any) -> bool:
        return True

    def finished(self, job: Any) -> bool:
        return job in self.done

    def handle_touch(self, job: Any) -> None:
        self.settled.append(job.name)

    async def handle_log(self, job: Any) -> None:
        pass

    def handle_protected(self, job: Any) -> None:
        pass

    def get_unneeded_temp_files(self, group: Any) -> Iterable[str]:
        outputs = [path for job in group.jobs for path in job.output]
        return [path for path in outputs if path in self.temporary]

    async def check_and_touch_output(self, job: Any, **how: object) -> None:
        if job.name in self.unsettled:
            raise OSError(f"{job.name}.txt is missing")


class StubJob:
    """One job; what a test does not say is as for a plain rule.

    Attributes
    ----------
    body
        What it does in the lane.
    prepared, registered
        How often Snakemake made it ready, and marked its outputs as incomplete.
    """

    def __init__(
        self,
        workflow: Any,
        name: str,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        params: dict[str, Any] | None = None,
        body: Callable[[], None] = lambda: None,
        threads: int = 1,
        priority: int = 0,
        attempt: int = 1,
        restart_times: int = 0,
        pipe_group: object = None,
        **resources: Any,
    ) -> None:
        self.name, self.workflow, self.dag = name, workflow, workflow.dag
        self.rule = SimpleNamespace(
            name=name,
            resources={
                name: SimpleNamespace(value=value, is_evaluable=lambda: False)
                for name, value in resources.items()
                if name == TOOL
            },
            params=Params(fromdict={k: v for k, v in (params or {}).items() if k == TOOL}),
            cache=None,
            script=None,
            is_handover=False,
            basedir=SimpleNamespace(join=lambda path: path),
        )
        self.jobid = len(workflow.jobs)
        self.input = InputFiles(fromdict={f"in{n}": IOFile(path) for n, path in enumerate(inputs)})
        self.output = OutputFiles(
            fromdict={f"out{n}": IOFile(path) for n, path in enumerate(outputs or [f"{name}.txt"])}
        )
        self.log = Log(fromdict={})
        self._params = self._non_derived_params = Params(fromdict=params or {})
        self._kept_params = self._params
        self._resources: Any = ResourceList(fromdict={"_cores": threads, "_nodes": 1, **resources})
        self._kept_resources = self._resources
        self.wildcards_dict = {"name": name}
        self.threads, self.priority, self.body = threads, priority, body
        self.attempt, self.restart_times, self.pipe_group = attempt, restart_times, pipe_group
        self.benchmark = self.conda_env = self.conda_env_spec = self.shadow_dir = None
        self.container_img_url = self.env_modules = self.group = None
        self.container_img: Any = None
        self.is_pipe = self.is_service = self.is_local = self.is_norun = False
        self.is_shadow = self.is_run = self.is_template_engine = self.is_checkpoint = False
        self.prepared = self.registered = 0
        self.unready: Exception | None = None
        self.jobs = (self,)
        workflow.jobs.append(self)

    # A group has the resources and params of its members evaluated anew.
    @property
    def resources(self) -> Any:
        return self._kept_resources if self._resources is None else self._resources

    @property
    def params(self) -> Any:
        return self._kept_params if self._params is None else self._params

    def __repr__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return 1

    def is_group(self) -> bool:
        return False

    def log_info(self) -> None:
        pass

    def register(self, external_jobid: str | None = None) -> None:
        self.registered += 1

    async def prepare(self) -> None:
        if self.unready is not None:
            raise self.unready
        self.prepared += 1

    def get_log_error_info(self, message: Any = None, indent: bool = False) -> dict[str, Any]:
        return {"told": message, "shellcmd": "command"}

    def reads(self, *others: StubJob) -> None:
        """Say that this job reads what others write."""
        for other in others:
            self.dag.dependencies[self][other] = set(other.output)
            self.dag.depending[other][self] = set(other.output)


class StubGroup:
    """Jobs that Snakemake hands out as one."""

    def __init__(self, *jobs: StubJob) -> None:
        self.jobs = list(jobs)
        self.toposorted = [[job] for job in jobs]
        self.groupid, self.rules = "g", {job.name for job in jobs}
        self.priority, self.attempt, self.restart_times = 0, 1, 0
        self.threads, self.is_local, self.log = 1, False, ()
        self.registered = 0
        self.resources: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.jobs)

    def is_group(self) -> bool:
        return True

    def log_info(self) -> None:
        pass

    def register(self, external_jobid: str | None = None) -> None:
        self.registered += 1


class StubWorkflow:
    """An executor over a pool whose workers are in memory.

    Attributes
    ----------
    host
        Where the pool's workers are.
    ran
        Names of the jobs that the lane has run, in order.
    """

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, cores: int = 2, **options: Any
    ) -> None:
        self.directory = directory
        self.jobs: list[StubJob] = []
        self.rules: list[Any] = []
        self.scheduler = StubScheduler()
        self.dag = StubDag(self)
        self.executor_settings = ExecutorSettings(**options)
        self.main_snakefile = "Snakefile"
        self.persistence = SimpleNamespace(path=directory)
        self.resource_settings = SimpleNamespace(cores=cores, nodes=None)
        self.execution_settings = SimpleNamespace(
            keep_going=False, keep_incomplete=False, latency_wait=0
        )
        self.storage_settings = SimpleNamespace(notemp=False)
        self.workflow_settings = SimpleNamespace(cache=None)
        self.deployment_settings = SimpleNamespace(deployment_method=frozenset())
        self.runtime_paths: list[Path] = []
        self.scheduling_settings = SimpleNamespace(max_jobs_per_timespan=None)
        self.global_resources: dict[str, Any] = {}
        self.linemaps: dict[str, Any] = {}
        self.host = AnsweringHost(waits=True)
        self.ran: list[str] = []
        self.logger = logging.Logger("stub")
        self.lines = self.scheduler.lines
        self.logger.addHandler(self.lines)
        self._replace_what_starts_processes(monkeypatch)
        self.executor: Any = Executor(self, self.logger)

    def _replace_what_starts_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(self.directory)
        (self.directory / "locks").mkdir(mode=0o700)
        monkeypatch.setenv("GPUPOOL_LOCK_DIR", str(self.directory / "locks"))

        def open_pool(config: PoolConfig, callbacks: Callbacks, machines: object) -> Pool:
            paths = RunPaths(config.run_root)
            paths.create()
            return Pool(config, callbacks, (paths, self.host))

        def run_body(lane: Any, job: Any, run: object, *arguments: object) -> None:
            self.ran.append(job.name)
            job.body()

        # Those of other tests in this process are no jobs of ours.
        monkeypatch.setattr(local_jobs, "signal_descendants", lambda number: None)
        monkeypatch.setattr(Signals, "kill_later", lambda signals: threading.Timer(0.0, print))
        monkeypatch.setattr(executor_module, "Pool", open_pool)
        monkeypatch.setattr(LocalLane, "cached_or_run", run_body)
        monkeypatch.setattr(LocalLane, "job_args_and_prepare", lambda lane, job: ())

    def async_run(self, coroutine: Any) -> Any:
        return asyncio.run(coroutine)

    def job(self, name: str, **what: Any) -> StubJob:
        """Make a job."""
        return StubJob(self, name, **what)

    def served(self, name: str, items: Iterable[str] = (), **what: Any) -> StubJob:
        """Make a job that a tool serves; the host reads its items by its number."""
        return self.job(name, gpupool_tool="linear-head", **what)

    def run(self, *jobs: Any) -> None:
        """Hand jobs out, as Snakemake does when they are ready."""
        self.executor.run_jobs(list(jobs))

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until something is so, which is looked at whenever a job is reported."""
        self.scheduler.wait(condition)

    @property
    def finished(self) -> list[str]:
        """The jobs that were reported as done, by name."""
        return [getattr(job, "name", "group") for job in self.scheduler.finished]

    @property
    def failed(self) -> list[str]:
        """The jobs that were reported as failed, by name."""
        return [getattr(job, "name", "group") for job in self.scheduler.failures]

    def told(self, name: str) -> str:
        """What was said of a failed job."""
        (record,) = (r for r in self.lines.records if f"Error in rule {name}," in r.getMessage())
        return str(getattr(record, "told", None))
