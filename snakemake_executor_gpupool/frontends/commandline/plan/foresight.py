"""Asks processes of the tools what jobs will need: their models, and the items of their inputs.

As in a run, a tool's code runs in processes of its own, in its rule's software, which see no
device. Nothing is loaded, computed or written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import tool_device
from snakemake_executor_gpupool.errors import GpupoolError, ImpossibleRequest
from snakemake_executor_gpupool.frontends.python.opening import temporary_directory
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.hosts.base import FrameArrived, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.result_store import (
    SUBDIRECTORY,
    ResultStore,
    bound_from,
    is_shared,
)
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen, foreseen_of
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.wire.messages import ImportFailed, ToolImported, message_of
from snakemake_executor_gpupool.wire.messages_out import foresee_job
from snakemake_executor_gpupool.wire.requests import ToolRef

#: Of one job, so many items are described; the others are counted.
MAX_ITEMS = 5000
#: How long all processes may take together; what they have not said by then is estimated.
PATIENCE_S = 30.0
#: Frames that a process gets before it has answered the first of them.
AHEAD = 4


@dataclass
class ForeseenJobs:
    """What the tools' processes have said.

    Attributes
    ----------
    answers
        By job number.
    read
        The jobs whose inputs were read.
    infos, start_s
        By tool: what its class says of itself, and how long its process took to say so.
    errors
        By tool: why it cannot be imported.
    is_cut
        Whether not all that was to be asked was answered in time.
    """

    answers: dict[int, Foreseen | Unforeseen] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    infos: dict[ToolRef, ToolInfo] = field(default_factory=dict)
    start_s: dict[ToolRef, float] = field(default_factory=dict)
    errors: dict[ToolRef, str] = field(default_factory=dict)
    is_cut: bool = False


def sampled(graph: Graph, most: int) -> list[PlannedJob]:
    """Return the served jobs to ask about: of each rule at most so many, spread evenly.

    Jobs whose inputs exist come first; of the others, one for each choice of params.
    """
    by_rule: defaultdict[str, list[PlannedJob]] = defaultdict(list)
    for job in graph.jobs:
        if job.way is Way.SERVED and job.request is not None and job.is_known and not job.refused:
            by_rule[job.rule].append(job)
    chosen: list[PlannedJob] = []
    for jobs in by_rule.values():
        there = [job for job in jobs if job.has_inputs]
        taken = _spread(there, most)
        params = {job.request.params for job in taken if job.request is not None}
        others = {job.request.params: job for job in jobs if job.request is not None}
        rest = [job for key, job in others.items() if key not in params]
        chosen += [*taken, *_spread(rest, max(most - len(taken), 0))]
    return chosen


def _spread(jobs: Sequence[PlannedJob], most: int) -> list[PlannedJob]:
    if len(jobs) <= most:
        return list(jobs)
    step = len(jobs) / most if most else 0.0
    return [jobs[int(step * number)] for number in range(most)]


def foresee(
    graph: Graph, jobs: Sequence[PlannedJob], patience_s: float = PATIENCE_S
) -> ForeseenJobs:
    """Ask a process of each tool about its jobs.

    Raises
    ------
    ConfigError
        There is no place for temporary files.
    """
    foresight = ForeseenJobs()
    by_tool: defaultdict[ToolRef, list[PlannedJob]] = defaultdict(list)
    for job in jobs:
        if job.request is not None:
            by_tool[job.request.tool].append(job)
    if not by_tool:
        return foresight
    with _host() as host:
        _Asking(graph, host, by_tool, foresight).run(time.monotonic() + patience_s)
    return foresight


@contextlib.contextmanager
def _host() -> Iterator[LocalHost]:
    """Yield a host whose files lie elsewhere than the run's, and are removed at the end."""
    paths = RunPaths(temporary_directory(), temporary=True)
    paths.create()
    try:
        host = LocalHost(paths, 1)
        try:
            yield host
        finally:
            host.stop_all(force=True)
            host.close(lambda end: None)
    finally:
        paths.remove_spools()
        paths.remove_staged()


def _store(graph: Graph) -> StoreAddress | None:
    """Return where results are kept, if that directory is there already; None: it is not."""
    cache = graph.config.cache
    if cache is None or not (cache / SUBDIRECTORY).is_dir():
        return None
    try:
        return ResultStore(cache, bound_from(os.environ), shared=is_shared(os.environ)).address
    except GpupoolError:
        return None


class _Asking:
    """Sends questions to one process for each tool, and takes the answers."""

    def __init__(
        self,
        graph: Graph,
        host: LocalHost,
        by_tool: Mapping[ToolRef, Sequence[PlannedJob]],
        foresight: ForeseenJobs,
    ) -> None:
        self._graph, self._host, self._foresight = graph, host, foresight
        self._devices = graph.config.devices
        self._specs = DeviceRequests(Allocator(self._devices))
        self._store = _store(graph)
        self._tool_of = {f"plan.{number}": tool for number, tool in enumerate(by_tool, 1)}
        self._waiting: dict[str, Iterator[PlannedJob]] = {
            name: iter(by_tool[tool]) for name, tool in self._tool_of.items()
        }
        self._asked: dict[int, PlannedJob] = {}
        self._in_flight = dict.fromkeys(self._tool_of, 0)
        self._open = set(self._tool_of)
        self._started_s: dict[str, float] = {}

    def run(self, deadline_s: float) -> None:
        """Ask until all have answered, or it is too late."""
        for name, tool in self._tool_of.items():
            self._started_s[name] = time.monotonic()
            self._host.start(name, tool, ())
        while self._open:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._foresight.is_cut = True
                return
            for event in self._host.poll(left_s):
                if isinstance(event, FrameArrived) and event.worker_id in self._open:
                    self._take(event.worker_id, event.frame)
                elif isinstance(event, WorkerGone):
                    self._gone(event)

    def _take(self, name: str, frame: Frame) -> None:
        tool = self._tool_of[name]
        try:
            if frame.type in ("tool", "tool_failed"):
                self._imported(name, tool, frame)
            elif frame.type in ("foreseen", "unforeseen"):
                self._answered(name, foreseen_of(frame))
        except GpupoolError as error:
            self._host.reject(name, str(error))

    def _answered(self, name: str, answer: Foreseen | Unforeseen) -> None:
        job = self._asked.pop(answer.job_id)
        self._in_flight[name] -= 1
        if isinstance(answer, Unforeseen) and job.has_inputs and job.after:
            # The files that are there will be made again: what is wrong with them does not count.
            again = dataclasses.replace(job, has_inputs=False)
            self._waiting[name] = itertools.chain([again], self._waiting[name])
        else:
            self._foresight.answers[answer.job_id] = answer
            self._foresight.read |= {answer.job_id} if job.has_inputs else set()
        self._ask(name)

    def _imported(self, name: str, tool: ToolRef, frame: Frame) -> None:
        message = message_of(frame)
        if isinstance(message, ImportFailed):
            self._foresight.errors[tool] = message.error.message
            self._open.discard(name)
        elif isinstance(message, ToolImported):
            self._foresight.infos[tool] = message.info
            self._foresight.start_s[tool] = time.monotonic() - self._started_s[name]
            self._ask(name)

    def _ask(self, name: str) -> None:
        """Send further questions; close a process that has none to answer any more."""
        info = self._foresight.infos[self._tool_of[name]]
        for job in itertools.islice(self._waiting[name], AHEAD - self._in_flight[name]):
            assert job.request is not None
            device = tool_device(self._devices_of(job, info))
            frame = foresee_job(
                job.request, device, self._store, reads=job.has_inputs, most=MAX_ITEMS
            )
            self._host.send(name, frame.meta, frame.blobs)
            self._asked[job.number] = job
            self._in_flight[name] += 1
        if not self._in_flight[name]:
            self._open.discard(name)

    def _devices_of(self, job: PlannedJob, info: ToolInfo) -> list[Device]:
        assert job.request is not None
        try:
            spec: DeviceSpec = self._specs.spec_for(job.request, info)
        except ImpossibleRequest:
            return []
        return list(filter(spec.accepts, self._devices))[: spec.count]

    def _gone(self, end: WorkerGone) -> None:
        if end.worker_id in self._open:
            self._open.discard(end.worker_id)
            reason = end.reason.partition("\n")[0]
            self._foresight.errors.setdefault(self._tool_of[end.worker_id], reason)
