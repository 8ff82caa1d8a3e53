"""The scheduler in simulated time: what a run would do, from what is known of its jobs. Pure.

All decisions are :class:`~snakemake_executor_gpupool.scheduling.core.Core`'s, as in a run; what is
foretold is only what processes take, from figures that earlier runs have measured. The caller says
when jobs become ready, and hears of their ends.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.runtime.expected import (
    ExpectedJob,
    ModelTally,
    Pace,
    info_fields,
    model_fields,
)
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest
from snakemake_executor_gpupool.scheduling.models.batch_time import Speed
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

#: What weights take to host memory or back, where nothing was measured.
MOVE_S = 0.5
#: What is assumed of a model that was never seen, so that the rest can be foretold.
GUESSED_LOAD_S, GUESSED_BATCH_S = 5.0, 0.5
#: Nothing changes in a planned run that was read before there was a job.
HOLDS: dict[str, object] = {"type": "checked", "holds": True}
#: How far a clock goes on at least between two looks at it.
TICK_S = 0.001
#: What a stage of a merged dispatch takes beside its models, and what publishing outputs does.
STAGING_S, PUBLISHING_S = 0.003, 0.002


class PlannedRun:
    """One run foretold, on a clock that jumps from event to event.

    Parameters
    ----------
    setup
        What the run's decisions start from.
    jobs
        By job number, what each served job will ask for.
    tools
        By the tool's spec, what its class says of itself.
    pace
        How long things take.
    reported
        Called with how a served job ended, or a lease that nothing can grant.
    granted
        Called with the number of a job that has its devices now.

    Attributes
    ----------
    now_s
        The time since the pool was opened.
    models
        By profile key, what each model did so far.
    merging
        Why short requests were merged, or not, whenever that changed.
    counts
        Loads, evictions and the like, as ``summary.json`` has them.
    """

    def __init__(
        self,
        setup: Setup,
        jobs: Mapping[int, ExpectedJob],
        tools: Mapping[str, ToolInfo],
        pace: Pace,
        reported: Callable[[JobReport], None],
        granted: Callable[[int], None],
    ) -> None:
        self._core = Core(setup)
        self._jobs, self._tools, self._pace = jobs, tools, pace
        self._budget_of = {job.model.model: job.batch_tokens for job in jobs.values()}
        self._reported, self._granted = reported, granted
        self.now_s = 0.0
        self.models: dict[str, ModelTally] = {}
        self.merging: list[str] = []
        self.counts: Counter[str] = Counter()
        self.busy_s: dict[str, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._free_at_s: dict[str, float] = {}
        self._alive: set[str] = set()
        #: By the processes of rows of models: of which stages they have loaded these.
        self._stages_of: dict[str, set[int]] = {}
        self._on: dict[str, tuple[Device, ...]] = {}
        self._decided: deque[fx.Effect] = deque()

    # -- what the caller does ----------------------------------------------------------
    def at(self, time_s: float, act: Callable[[], None]) -> None:
        """Do something at a later time."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._numbers), act))

    def foresee(self, forecast: Forecast) -> None:
        """The frontend knows more of the jobs to come."""
        self._take(ev.JobsForeseen(forecast))

    def handing_over(self, *, goes_on: bool) -> None:
        """The frontend begins to hand over many jobs, or has handed over all of them."""
        self._take(ev.HandingOver(goes_on))

    def submit(self, request: Request) -> None:
        """A served job is ready."""
        self._take(ev.JobReady(request))

    def lease(self, request: LeaseRequest) -> None:
        """A job needs devices of its own."""
        self._take(ev.LeaseWanted(request))

    def lease_ended(self, job_id: int) -> None:
        """A job that had devices has ended."""
        self._take(ev.LeaseEnded(job_id))

    def run(self) -> float:
        """Let time pass until nothing more happens; return the time, in seconds."""
        scheduler = self._core.scheduler
        looked_s = -math.inf
        while True:
            event_s = self._events[0][0] if self._events else math.inf
            wake_s = math.inf if scheduler.is_quiet else scheduler.next_wake_s(self.now_s)
            # Looking twice at the same time changes nothing: a clock would have gone on.
            wake_s = max(wake_s, looked_s + TICK_S)
            if math.isinf(event_s) and math.isinf(wake_s):
                break
            if event_s <= wake_s:
                self.now_s = max(self.now_s, event_s)
                heapq.heappop(self._events)[2]()
            else:
                self.now_s = looked_s = max(self.now_s, wake_s)
                self._take(ev.TimePassed())
        self.counts.update(self._core.scheduler.dispatch.counts)
        self.counts.update(self._core.scheduler.merges.counts)
        return self.now_s

    # -- events in, effects out --------------------------------------------------------
    def _take(self, event: ev.Event) -> None:
        """Have an event decided on, and all that follows from it at once."""
        is_inner = bool(self._decided)
        self._decided.extend(self._core.take(event, self.now_s))
        if is_inner:
            return
        while self._decided:
            effect = self._decided[0]
            self._carry_out(effect)
            self._decided.popleft()

    def _answer(
        self, worker_id: str, fields: dict[str, object], blobs: Sequence[bytes] = ()
    ) -> None:
        self._take(ev.FrameReceived(worker_id, fields, list(blobs)))

    def _later(self, worker_id: str, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a process, after what it is at, unless it has ended by then."""
        start_s = max(self.now_s, self._free_at_s.get(worker_id, 0.0))
        self._free_at_s[worker_id] = start_s + seconds

        def if_alive() -> None:
            if worker_id in self._alive:
                act()

        self.at(start_s + seconds, if_alive)

    def _carry_out(self, effect: fx.Effect) -> None:  # noqa: C901, PLR0912 - one case an effect
        match effect:
            case fx.ClaimDevices(holder_id=holder):
                self._take(ev.DevicesClaimed(holder))
            case fx.StartWorker():
                self._start(effect)
            case fx.RejectWorker(worker_id=worker, why=why):
                raise AssertionError(f"{worker} broke the protocol: {why}")
            case fx.StopWorker(worker_id=worker):
                self.at(self.now_s + 0.01, lambda: self._end(worker))
            case fx.LoadModel():
                self._load(effect.worker_id)
            case fx.MoveModel(worker_id=worker, devices=devices):
                away, seconds = not devices, MOVE_S * self._pace.factor
                self._later(
                    worker, seconds, lambda: self._answer(worker, {"type": "moved", "away": away})
                )
            case fx.ReadJob(worker_id=worker, request=request):
                seconds = self._jobs[request.job_id].read_s * self._pace.factor
                self._later(worker, seconds, lambda: self._read(worker, request))
            case fx.DescribeModel(worker_id=worker, number=number, request=request):
                seconds = self._jobs[request.job_id].read_s * self._pace.factor
                self._later(worker, seconds, lambda: self._foresee(worker, number, request))
            case fx.CheckWorker(worker_id=worker):
                self._later(worker, 0.0, lambda: self._answer(worker, HOLDS))
            case fx.WriteJob(worker_id=worker, request=request):
                seconds = self._jobs[request.job_id].write_s * self._pace.factor
                self._later(worker, seconds, lambda: self._written(worker, request, "written"))
            case fx.PublishJob(worker_id=worker, request=request):
                seconds = PUBLISHING_S * self._pace.factor
                self._later(worker, seconds, lambda: self._written(worker, request, "published"))
            case fx.RunBatch():
                self._run_batch(effect)
            case fx.RunMerged():
                self._run_merged(effect)
            case fx.Note(event="merge_decided", fields=fields):
                self.merging.append(f"{fields['model']}: {fields['why']}")
            case fx.Report(report=report):
                self._reported(report)
            case fx.GrantLease(job_id=job_id):
                self._granted(job_id)

    # -- processes ---------------------------------------------------------------------
    def _start(self, effect: fx.StartWorker) -> None:
        worker_id, tool = effect.worker_id, effect.tool
        self._alive.add(worker_id)
        self._on[worker_id] = effect.devices
        seconds = self._starting_s(worker_id, tool)
        info = info_fields(self._tools[tool.spec])
        fields = {"type": "tool", "info": info, "seconds": seconds, "versions": {}}
        self._later(worker_id, seconds, lambda: self._answer(worker_id, fields))

    def _starting_s(self, worker_id: str, tool: ToolRef) -> float:
        """Return how long a process takes to start; a model's load is counted from there."""
        start_s = self._pace.starting_s(tool)
        if not self._on[worker_id]:
            return start_s
        load_s = self._pace.of(self._model(worker_id)).load_s
        return start_s if load_s is None else min(start_s, load_s * self._pace.factor)

    def _end(self, worker_id: str) -> None:
        if worker_id in self._alive:
            self._alive.discard(worker_id)
            self._free_at_s.pop(worker_id, None)
            self._take(ev.WorkerEnded(worker_id, "exit code 0", expected=True))

    def _model(self, worker_id: str) -> Model:
        return self._core.scheduler.dispatch.worker(worker_id).model

    def _tally(self, model: Model) -> ModelTally:
        tally = self.models.get(model.profile_key)
        if tally is None:
            name, tool = model.name, str(model.tool.ref)
            batch_s = self._pace.batch_s.get(name)
            tally = ModelTally(name, tool, self._pace.of(model), model.is_chain, batch_s)
            self.models[model.profile_key] = tally
        return tally

    # -- files -------------------------------------------------------------------------
    def _read(self, worker_id: str, request: Request) -> None:
        job = self._jobs[request.job_id]
        items = job.items
        following = [self._jobs[later.job_id] for later in request.follow]
        fields: dict[str, object] = {
            "type": "items",
            "job": request.job_id,
            **model_fields(job.model),
            "keys": list(items.keys),
            "costs": list(items.costs),
            "tokens": list(items.tokens),
            "names": [""] * len(items.keys),
            "kept": list(range(items.kept)),
            "last": True,
            "follow": [
                {**model_fields(later.model), "info": info_fields(later.info)}
                for later in following
            ],
        }
        self._answer(worker_id, fields, [b""] * len(items.keys))

    def _foresee(self, worker_id: str, number: int, request: Request) -> None:
        fields: dict[str, object] = {"type": "foreseen", "job": number, "batch_tokens": None}
        fields |= model_fields(self._jobs[request.job_id].model)
        fields |= {"keys": [], "costs": [], "tokens": [], "kept": 0, "count": 0, "whole": True}
        self._answer(worker_id, fields)

    def _written(self, worker_id: str, request: Request, what: str) -> None:
        self._answer(worker_id, {"type": what, "job": request.job_id, "seconds": 0.0})

    # -- models ------------------------------------------------------------------------
    def _load(self, worker_id: str) -> None:
        model = self._model(worker_id)
        tally = self._tally(model)
        whole_s = (tally.figures.load_s or GUESSED_LOAD_S) * self._pace.factor
        seconds = max(whole_s - self._starting_s(worker_id, model.tool.ref), 0.0)
        tally.loads += 1
        tally.load_s += whole_s
        for device in self._on[worker_id]:
            tally.devices[device.name] = tally.devices.get(device.name, 0) + 1
        # A worker of merged runs has the budget of its first model.
        budget = self._budget_of.get(model.ident or model.profile_key.partition("+")[0], 1)
        fields: dict[str, object] = {"type": "loaded", "batch_tokens": budget, "seconds": seconds}
        fields |= {"peak_mib": None, "versions": {}, "quick_tokens": 0}
        self._later(worker_id, seconds, lambda: self._answer(worker_id, fields))

    def _batch_s(self, model: Model, cost: float) -> float:
        tally = self._tally(model)
        seconds = Speed(tally.figures.s_per_cost, tally.figures.fixed_s).seconds(cost)
        if seconds is None:
            seconds = GUESSED_BATCH_S if tally.batch_s is None else tally.batch_s
        return seconds * self._pace.factor

    def _book(self, worker_id: str, model: Model, seconds: float, items: int) -> None:
        tally = self._tally(model)
        tally.batches += 1
        tally.items += items
        tally.busy_s += seconds
        for device in self._on[worker_id]:
            self.busy_s[device.name] = self.busy_s.get(device.name, 0.0) + seconds

    def _run_batch(self, effect: fx.RunBatch) -> None:
        worker_id, count = effect.worker_id, len(effect.items)
        model = self._model(worker_id)
        seconds = self._batch_s(model, sum(item.cost for item in effect.items))
        self._book(worker_id, model, seconds, count)
        fields: dict[str, object] = {"type": "done", "batch": effect.batch_id, "items": count}
        fields |= {"failed": [], "errors": [], "out_of_memory": []}
        fields |= {"seconds": seconds, "peak_mib": None}
        blobs = [b""] * count
        self._later(worker_id, seconds, lambda: self._answer(worker_id, fields, blobs))

    def _run_merged(self, effect: fx.RunMerged) -> None:
        """Run all stages; a worker answers after each of them."""
        worker_id, requests = effect.worker_id, effect.requests
        model, stages = self._model(worker_id), len(requests[0].stages)
        whole_s = self._batch_s(model, sum(request.cost for request in requests))
        self._book(worker_id, model, whole_s, sum(len(each.parts) for each in requests))
        for number in range(stages):
            load_s = self._load_later(worker_id, model, requests[0].offset + number)
            seconds = whole_s / stages + STAGING_S * self._pace.factor
            done = self._stage_done(effect, number, stages, requests, seconds, load_s)
            self._later(worker_id, load_s + seconds, done)

    def _load_later(self, worker_id: str, model: Model, stage: int) -> float:
        """Return how long loading the model of a stage takes that a process needs now."""
        loaded = self._stages_of.setdefault(worker_id, {0})
        if stage in loaded:
            return 0.0
        loaded.add(stage)
        tally = self._tally(model)
        load_s = (tally.figures.later_loads_s or 0.0) / len(model.more_params) * self._pace.factor
        tally.load_s += load_s
        return load_s

    def _stage_done(
        self,
        effect: fx.RunMerged,
        number: int,
        stages: int,
        requests: Sequence[MergedRequest],
        seconds: float,
        load_s: float,
    ) -> Callable[[], None]:
        chains: list[dict[str, object]] = []
        count = 0
        for place, request in enumerate(requests):
            keys = list(dict.fromkeys(self._stage_keys(request, number)))
            count += len(keys)
            files: dict[str, object] = {"digests": [], "outputs": [], "logs": [], "bytes": 1}
            chains.append({"chain": place, "keys": keys, "items": len(keys), **files})

        place, is_single = requests[0].offset + number, requests[0].is_single
        fields: dict[str, object] = {"type": "stage", "batch": effect.batch_id, "stage": place}
        fields |= {"load_s": load_s, "versions": {}} if load_s else {}
        fields |= {"last": number + 1 == stages, "seconds": seconds, "chains": chains}
        fields["peak_mib"] = None
        if is_single:
            fields |= {"chains": [], "computed": list(range(count))}
        return lambda: self._answer(effect.worker_id, fields, [b""] * count)

    def _stage_keys(self, request: MergedRequest, number: int) -> Sequence[str]:
        if number == 0:
            return request.part_keys
        return self._jobs[request.stages[number].request.job_id].items.keys
