"""A world for the scheduler: processes that take simulated time, and nothing else.

The real scheduler decides; this carries its effects out on a clock that jumps. What a test
wants to go wrong, it names: items that kill their worker, loads that fail, and so on.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.errors import CONTRACT, FrameError
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.deliver import Deliverer
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing import invariants
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from snakemake_executor_gpupool.wire.spool import Discards

#: With so many entries in the scheduler's tables, they are compared after each event; with more
#: of them, less often in proportion.
CHECKED_EACH = 5
INFO = {
    "deterministic": True,
    "persistent": True,
    "devices": ["cuda", "cpu"],
    "gpus_per_instance": 1,
    "pads": True,
    "vram_mib": None,
    "batch_limit_s": 600.0,
    "can_move": False,
}


def gpu(index: int, memory_mib: int | None = None) -> Device:
    """Return a card that is only a name."""
    name = f"cuda:{index}"
    return Device(name, "cuda", index, f"GPU-{index}", memory_mib, visible_id=str(index))


@dataclass
class FakeItem:
    """One item of a job."""

    key: str
    cost: float = 1.0
    tokens: int = 1
    group: str = "g"


@dataclass
class World:
    """Devices, processes and files that exist only in time.

    Attributes
    ----------
    seconds_per_cost
        True speed, or a function of the item's key.
    deadly
        Keys of items that kill the worker that computes them.
    bad
        Keys of items for which the tool raises.
    broken
        Keys of items for which the tool's ``run`` returns what is no list of results.
    roomy
        Keys of items that fit a device only while nobody else has a process on it.
    huge
        Keys of items that fit no device.
    changed
        Jobs whose inputs are not what a chain made of them.
    failing_loads, fatal_loads
        Models for which ``load`` raises, or kills its worker.
    short_tokens
        Up to how many tokens a job is short; 0: none is.
    dispatch_s
        What a dispatch takes beside its items.
    shares
        Whether items and results lie in files, those of a frame together.
    hosts
        Nodes of a cluster, each of which has as many devices; empty: there is this machine alone.
    file_workers
        How many processes may read and write for one tool, on each machine.
    write_s
        What writing a job's outputs takes; None: as much as reading.
    fatal_starts
        Nodes on which file processes die while they start.
    ends_at_s
        When nodes are given back, by host.
    stop_s
        How long a process takes to end.
    claim_s
        How long it takes to learn whether granted devices are to be had.
    foreign
        Devices that another process holds, by name, and until when.
    broken_cards
        Devices that turn out to be broken when somebody wants to use them.
    figures
        What earlier runs measured of models on one of the cards, by model.
    """

    gpus: int = 2
    cpus: int = 1
    load_s: float = 1.0
    start_s: float = 0.1
    read_s: float = 0.001
    budget_tokens: int = 8
    seconds_per_cost: float | Callable[[str], float] = 1.0
    deadly: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    roomy: set[str] = field(default_factory=set)
    huge: set[str] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    failing_loads: set[str] = field(default_factory=set)
    fatal_loads: set[str] = field(default_factory=set)
    info: dict[str, Any] = field(default_factory=dict)
    config: DispatchConfig = field(default_factory=DispatchConfig)
    strategy: OffloadStrategy = OffloadStrategy.RESTART
    gpu_mib: int | None = None
    packing: bool = False
    short_tokens: int = 0
    dispatch_s: float = 0.0
    shares: bool = False
    hosts: tuple[str, ...] = ()
    file_workers: int = 1
    write_s: float | None = None
    fatal_starts: set[str] = field(default_factory=set)
    ends_at_s: dict[str, float] = field(default_factory=dict)
    stop_s: float = 0.01
    claim_s: float = 0.0
    foreign: dict[str, float] = field(default_factory=dict)
    broken_cards: set[str] = field(default_factory=set)
    figures: dict[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.devices = [gpu(i, self.gpu_mib) for i in range(self.gpus)]
        self.devices += [cpu_slot(i) for i in range(self.cpus)]
        if self.hosts:
            self.devices = [device.on(host) for host in self.hosts for device in self.devices]
        self.setup = Setup(
            devices=tuple(self.devices),
            allow_multiple_per_device=self.packing,
            offload_strategy=self.strategy,
            dispatch=self.config,
            file_workers=self.file_workers,
            figures={f"{model}/cudax1:": figures for model, figures in self.figures.items()},
            spools=("/spool",),
        )
        self.core = Core(self.setup)
        self.allocator, self.scheduler = self.core.allocator, self.core.scheduler
        #: For tests of frames alone.
        self.deliverer = Deliverer(self.scheduler, self.setup.spools)
        #: Sees each event and what was decided on it, but for what a test does to the scheduler.
        self.on_decided: Callable[[ev.Event, float, list[fx.Effect]], None] = lambda *seen: None
        self._decided: deque[fx.Effect] = deque()
        #: What the coordinator said of frames that it did not believe.
        self.complaints: list[str] = []
        self.now_s = 0.0
        self.log: list[tuple[float, fx.Effect]] = []
        self.reports: dict[int, str | None] = {}
        self.report_times: dict[int, float] = {}
        self.results: dict[int, list[str]] = {}
        #: Jobs whose params are others than those foreseen.
        self.other_params: set[int] = set()
        self.granted: dict[int, tuple[Device, ...]] = {}
        #: Holders whose devices were confirmed as claimed: (holder, devices).
        self.claimed: set[tuple[str, tuple[Device, ...]]] = set()
        self.computed: list[str] = []
        self.batches: list[list[str]] = []
        self.finished_s: dict[str, float] = {}
        self._jobs: dict[int, tuple[str, list[FakeItem]]] = {}
        self.requests: dict[int, Request] = {}
        #: What messages call a job, where that is not its number.
        self.titles: dict[int, str] = {}
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._free_at: dict[str, float] = {}
        self._alive: set[str] = set()
        #: What lies in files, by path and offset, and which files were removed.
        self.contents: dict[tuple[str, int], bytes] = {}
        self.removed: set[str] = set()
        self._discards = Discards(self.removed.add)
        self._unchecked = 0
        #: On which node each process is or was.
        self.node_of: dict[str, str] = {}

    # -- what a test does ------------------------------------------------------------
    def submit(
        self,
        job_id: int,
        items: Sequence[FakeItem | str],
        *,
        model: str = "m",
        tool: str = "tool",
        priority: int = 0,
        devices: DeviceSpec | None = None,
        instance: str = "",
        timeout_s: float | None = None,
        follow: Sequence[int] = (),
        input_bytes: int = 0,
        attempt: int = 1,
    ) -> None:
        """Make a job ready now; ``follow`` are jobs that were declared."""
        fakes = [item if isinstance(item, FakeItem) else FakeItem(item) for item in items]
        self.declare(job_id, fakes, model=model, tool=tool)
        request = dataclasses.replace(
            self.requests[job_id],
            priority=priority,
            devices=devices,
            instance=instance,
            timeout_s=timeout_s,
            input_bytes=input_bytes,
            attempt=attempt,
            follow=tuple(self.requests[later] for later in follow),
        )
        self.requests[job_id] = request
        self.take(ev.JobReady(request))
        self._act()

    def declare(
        self, job_id: int, items: Sequence[FakeItem], *, model: str = "m", tool: str = "tool"
    ) -> None:
        """Say what a job is, without making it ready."""
        self._jobs[job_id] = (model, list(items))
        self.requests[job_id] = Request(
            job_id=job_id,
            title=self.titles.get(job_id, f"rule r (job={job_id})"),
            identity=(str(job_id),),
            tool=ToolRef(tool, "", "python"),
            job=str(job_id).encode(),
            params=model.encode(),
            cwd="/",
            bare=f"{job_id}{' changed' * (job_id in self.other_params)}".encode(),
        )

    def lease(self, job_id: int, spec: DeviceSpec, hold_s: float, priority: int = 0) -> None:
        """Make a plain GPU job ready now; it runs for ``hold_s``."""
        self._hold_s = getattr(self, "_hold_s", {})
        self._hold_s[job_id] = hold_s
        self.take(ev.LeaseWanted(LeaseRequest(job_id, f"lease {job_id}", spec, priority)))
        self._act()

    def take(self, event: ev.Event) -> list[fx.Effect]:
        """Have an event decided on; what follows is carried out when its time has come."""
        effects = self.core.take(event, self.now_s)
        self.on_decided(event, self.now_s, effects)
        self._decided += effects
        return effects

    def at(self, time_s: float, act: Callable[[], object]) -> None:
        """Do something at a later time."""
        heapq.heappush(self._events, (time_s, next(self._numbers), act))

    def kill(self, worker_id: str) -> None:
        """End a process from outside."""
        self._die(worker_id, "killed by SIGKILL")

    def lose(self, host: str, *, with_its_processes: bool = True) -> None:
        """A node is gone, or is to be given back: then what runs on it goes on."""
        names = tuple(device.name for device in self.devices if device.host == host)
        self.take(ev.DevicesRemoved(names))
        for worker in sorted(self._alive) if with_its_processes else ():
            if self.node_of[worker] == host:
                self._die(worker, f"node {host} was lost", blameless=True)
        self._act()

    def join(self, host: str) -> None:
        """A node is there, or there again."""
        devices = tuple(device for device in self.devices if device.host == host)
        self.take(ev.DevicesAdded(devices, self.ends_at_s.get(host)))
        self._act()

    def kill_one(self, pick: Callable[[Sequence[str]], str]) -> None:
        """End one of the processes from outside, if there is one."""
        if self._alive:
            self.kill(pick(sorted(self._alive)))

    def kill_first(self) -> None:
        """End the oldest of the models' workers from outside, if there is one."""
        self.kill(next(iter(self.scheduler.dispatch.lifecycle.workers), "none"))

    def run(self, until_s: float = 1e9) -> float:
        """Let time pass until nothing more happens; return the time."""
        while (next_s := self._next_s()) <= until_s:
            self.now_s = max(self.now_s, next_s)
            if self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            else:
                self.take(ev.TimePassed())
            self._act()
        return self.now_s

    def _next_s(self) -> float:
        """When something happens next, a tick of the run loop included; never if all is done."""
        event_s = self._events[0][0] if self._events else math.inf
        if self.scheduler.is_quiet:
            return event_s
        return min(event_s, self.scheduler.next_wake_s(self.now_s))

    # -- frames ------------------------------------------------------------------------
    def _answer(self, worker: str, kind: str, blobs: Sequence[bytes] = (), **fields: Any) -> None:
        try:
            for frame in self.sent(worker, Frame({"type": kind, **fields}, self._stored(blobs))):
                effects = self.take(ev.FrameReceived(worker, frame.meta, frame.blobs))
                if any(isinstance(effect, fx.RejectWorker) for effect in effects):
                    break
        except FrameError as error:
            self._reject(worker, str(error))

    def _reject(self, worker: str, why: str) -> None:
        self.complaints.append(why)
        self._die(worker, f"broke the protocol ({why})")

    def _stored(self, blobs: Sequence[bytes]) -> list[Blob]:
        if not self.shares:
            return list(blobs)
        path = f"/spool/{next(self._numbers)}.blob"
        self.contents.update({(path, 64 * n): blob for n, blob in enumerate(blobs)})
        return [SpoolFile(path, len(b), 64 * n, len(blobs)) for n, b in enumerate(blobs)]

    def text(self, blob: Blob) -> str:
        """Return what a process reads that is sent a blob."""
        if isinstance(blob, bytes):
            return blob.decode()
        text = self.contents.get((blob.path, blob.offset))
        if text is None:
            return "lies"
        assert blob.path not in self.removed, "a file was removed that is still needed"
        return text.decode()

    def sent(self, worker: str, frame: Frame) -> Iterable[Frame]:
        """Return what a worker sends when it means to send ``frame``."""
        return [frame]

    # -- effects -----------------------------------------------------------------------
    def effects(self, kind: type) -> list[Any]:
        """Return all effects of a kind so far."""
        return [effect for _, effect in self.log if isinstance(effect, kind)]

    def notes(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of all notes of a kind so far."""
        return [dict(n.fields) for n in self.effects(fx.Note) if n.event == event]

    def _act(self) -> None:
        self._check()
        discarded = list[Blob]()
        self._decided += self.scheduler.outbox.take()  # a test may have called it
        while self._decided:
            effect = self._decided.popleft()
            self.log.append((self.now_s, effect))
            if isinstance(effect, fx.DiscardBlobs):
                discarded += effect.blobs
            else:
                self._carry_out(effect)
        for blob in discarded:
            self._discards.discard(blob)

    def _check(self) -> None:
        """See that the scheduler's tables agree; less often where there is much to look at."""
        self._unchecked += 1
        if self._unchecked * CHECKED_EACH >= invariants.size(self.scheduler):
            self._unchecked = 0
            invariants.check(self.scheduler)

    def _later(self, worker_id: str, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a process, after what it is at, unless it has died by then."""
        start_s = max(self.now_s, self._free_at.get(worker_id, 0.0))
        self._free_at[worker_id] = start_s + seconds

        def if_alive() -> None:
            if worker_id in self._alive:
                act()

        self.at(start_s + seconds, if_alive)

    def _carry_out(self, effect: fx.Effect) -> None:  # noqa: C901, PLR0912 - one case an effect
        match effect:
            case fx.ClaimDevices():
                if self.claim_s:
                    self.at(self.now_s + self.claim_s, lambda: self._claim(effect))
                else:
                    self._claim(effect)
            case fx.StartWorker(worker_id=worker):
                self._start(effect)
            case fx.RejectWorker(worker_id=worker, why=why):
                self._reject(worker, why)
            case fx.StopWorker(worker_id=worker):
                self.at(self.now_s + self.stop_s, lambda: self._die(worker, "exit code 0"))
            case fx.LoadModel(worker_id=worker, params=params):
                self._later(worker, self.load_s, lambda: self._loaded(worker, params.decode()))
            case fx.MoveModel(worker_id=worker, devices=devices):
                away = not devices
                self._later(worker, 0.05, lambda: self._answer(worker, "moved", away=away))
            case fx.ReadJob(worker_id=worker, request=request):
                self._later(worker, self.read_s, lambda: self._read(worker, request.job_id))
            case fx.WriteJob(worker_id=worker, request=request):
                values = [self.text(effect.blobs[place]) for place in effect.order]
                self.results[request.job_id] = values
                self._later(
                    worker,
                    self.read_s if self.write_s is None else self.write_s,
                    lambda: self._answer(worker, "written", job=request.job_id, seconds=0.0),
                )
            case fx.PublishJob(worker_id=worker, request=request):
                self._later(worker, self.read_s, lambda: self._publish(worker, request.job_id))
            case fx.RunBatch():
                self._run_batch(effect)
            case fx.RunMerged():
                self._run_chains(effect)
            case fx.Report(report=report):
                assert report.job_id not in self.reports, "a job is reported once"
                self.reports[report.job_id] = report.error
                self.report_times[report.job_id] = self.now_s
            case fx.GrantLease(job_id=job_id, devices=devices):
                self.granted[job_id] = devices
                hold_s = self._hold_s[job_id]
                self.at(self.now_s + hold_s, lambda: self._lease_ended(job_id))

    def _claim(self, effect: fx.ClaimDevices) -> None:
        """Say whether granted devices are to be had; who holds one gives it back in time."""
        names = [device.name for device in effect.devices]
        self.claimed.add((effect.holder_id, effect.devices))
        for name in names:
            until_s, is_broken = self.foreign.get(name, 0.0), name in self.broken_cards
            if is_broken or until_s > self.now_s:
                self.claimed.remove((effect.holder_id, effect.devices))
                why, holder = f"{name} is held", effect.holder_id
                self.take(ev.DevicesRefused(holder, name, why, lost=is_broken))
                if not is_broken:
                    self.at(until_s, functools.partial(self.take, ev.DeviceGivenBack(name)))
                return
        self.take(ev.DevicesClaimed(effect.holder_id))

    def _lease_ended(self, job_id: int) -> None:
        self.take(ev.LeaseEnded(job_id))

    def _start(self, effect: fx.StartWorker) -> None:
        worker, devices = effect.worker_id, effect.devices
        self._alive.add(worker)
        self.node_of[worker] = devices[0].host if devices else effect.node or ""
        if self.node_of[worker] in self.fatal_starts and not devices:
            self._later(worker, self.start_s, lambda: self._die(worker, "killed by SIGSEGV"))
            return
        fields: dict[str, Any] = {
            "info": {**INFO, **self.info},
            "seconds": self.start_s,
            "versions": {},
        }
        self._later(worker, self.start_s, lambda: self._answer(worker, "tool", **fields))

    def _read(self, worker: str, job_id: int) -> None:
        request, (_, items) = self.requests[job_id], self._jobs[job_id]
        columns = {
            "keys": [item.key for item in items],
            "costs": [item.cost for item in items],
            "tokens": [item.tokens for item in items],
            "names": [f"{item.key}@{n}" for n, item in enumerate(items)],
        }
        info = {**INFO, **self.info}
        follow = [{**self._describe(int(later.job)), "info": info} for later in request.follow]
        meta = {**self._describe(job_id), **columns, "kept": [], "last": True, "follow": follow}
        payloads = [f"{item.key}".encode() for item in items]
        self._answer(worker, "items", payloads, job=job_id, **meta)

    def _publish(self, worker: str, job_id: int) -> None:
        """Put results in place, unless the job's inputs have changed."""
        if job_id in self.changed:
            self._answer(worker, "unpublished", job=job_id)
            return
        self.results[job_id] = [f"result of {item.key}" for item in self._jobs[job_id][1]]
        self._answer(worker, "published", job=job_id, seconds=0.0)

    def _describe(self, job_id: int) -> dict[str, Any]:
        model, items = self._jobs[job_id]
        group = items[0].group if items else "g"
        names = {"model": model, "model_label": model, "group": group}
        return {**names, "short_tokens": self.short_tokens}

    # A chain's worker sends a frame for each stage; items fail or kill in it as they do elsewhere.
    def _run_chains(self, effect: fx.RunMerged) -> None:
        worker, stages = effect.worker_id, len(effect.requests[0].stages)
        whole = list(range(len(effect.requests)))
        for stage in range(stages):
            items = {number: self._stage_items(effect, stage, number) for number in whole}
            keys = {item.key for each in items.values() for item in each}
            seconds = sum(item.cost for each in items.values() for item in each)
            assert isinstance(self.seconds_per_cost, int | float), "chains take one speed for all"
            seconds = seconds * self.seconds_per_cost + self.dispatch_s * (stage == 0)
            if self.deadly & keys:
                self._later(worker, seconds / 2, lambda: self._die(worker, "killed by SIGSEGV"))
                return
            unfit = self.bad | self.huge
            whole = [n for n, each in items.items() if not unfit & {i.key for i in each}]
            done = {number: items[number] for number in whole}
            meta = {"stage": stage, "last": not whole or stage + 1 == stages, "seconds": seconds}
            self._later(worker, seconds, functools.partial(self._stage_done, effect, meta, done))
            if not whole:
                return

    def _stage_items(self, effect: fx.RunMerged, stage: int, number: int) -> list[FakeItem]:
        _, items = self._jobs[int(effect.requests[number].stages[stage].request.job)]
        return list({item.key: item for item in items}.values())

    def _stage_done(
        self, effect: fx.RunMerged, meta: dict[str, Any], items: dict[int, list[FakeItem]]
    ) -> None:
        keys = [item.key for each in items.values() for item in each]
        self.computed += list(dict.fromkeys(keys))
        self.finished_s.update(dict.fromkeys(keys, self.now_s))
        for number in items if meta["stage"] == 0 else ():
            job_id = int(effect.requests[number].stages[0].request.job)
            self.results[job_id] = [f"result of {item.key}" for item in self._jobs[job_id][1]]
        names = {number: [item.key for item in each] for number, each in items.items()}
        files = {"digests": [], "outputs": [], "logs": [], "bytes": 1}
        chains = [{"chain": n, "keys": k, "items": len(k), **files} for n, k in names.items()]
        meta = {**meta, "batch": effect.batch_id, "chains": chains, "peak_mib": None}
        self._answer(effect.worker_id, "stage", [f"result of {k}".encode() for k in keys], **meta)

    def _loaded(self, worker: str, model: str) -> None:
        if model in self.fatal_loads:
            self._die(worker, "killed by SIGSEGV")
        elif model in self.failing_loads:
            error = {"kind": "input", "type": "InputError", "message": "no weights"}
            self._answer(worker, "load_failed", error={**error, "traceback": ""})
        else:
            figures: dict[str, Any] = {"batch_tokens": self.budget_tokens, "seconds": self.load_s}
            self._answer(worker, "loaded", **figures, peak_mib=None, versions={})

    def _run_batch(self, effect: fx.RunBatch) -> None:
        keys = [self.text(item.payload) for item in effect.items]
        self.batches.append(keys)
        speed = self.seconds_per_cost
        seconds = sum(
            item.cost * (speed(key) if callable(speed) else speed)
            for item, key in zip(effect.items, keys, strict=True)
        )
        seconds += self.dispatch_s
        worker = effect.worker_id
        if self.deadly & set(keys):
            self._later(worker, seconds / 2, lambda: self._die(worker, "killed by SIGSEGV"))
            return
        self._later(
            worker, seconds, lambda: self._batch_done(worker, effect.batch_id, keys, seconds)
        )

    def _batch_done(self, worker: str, batch_id: int, keys: list[str], seconds: float) -> None:
        error = {"kind": "tool", "type": "ValueError", "message": "bad item", "traceback": ""}
        exhausted = {"kind": "tool", "type": "OutOfMemoryError", "message": "CUDA out of memory"}
        too_large = {key for key in keys if self._exhausts(worker, key)}
        errors = {key: error for key in keys if key in self.bad}
        errors |= {key: {**exhausted, "traceback": ""} for key in too_large}
        if self.broken & set(keys):
            contract = {**error, "kind": CONTRACT, "message": "returned a dict"}
            errors = dict.fromkeys(keys, contract)
        failed = [position for position, key in enumerate(keys) if key in errors]
        outcomes = {
            "items": len(keys),
            "failed": failed,
            "errors": [errors[keys[position]] for position in failed],
            "out_of_memory": list(range(len(keys))) if too_large else [],
        }
        blobs = [f"result of {key}".encode() for key in keys if key not in errors]
        self.computed += [key for key in keys if key not in too_large]
        self.finished_s.update(dict.fromkeys(keys, self.now_s))
        meta = {**outcomes, "batch": batch_id, "seconds": seconds, "peak_mib": None}
        self._answer(worker, "done", blobs, **meta)

    def _exhausts(self, worker: str, key: str) -> bool:
        workers = self.scheduler.dispatch.lifecycle.workers
        devices = set(workers[worker].devices)
        alone = not any(
            devices & set(other.devices)
            for name, other in workers.items()
            if name != worker and name in self._alive
        )
        return key in self.huge or (key in self.roomy and not alone)

    def _die(self, worker: str, reason: str, *, blameless: bool = False) -> None:
        if worker in self._alive:
            self._alive.discard(worker)
            self._free_at.pop(worker, None)
            self.take(ev.WorkerEnded(worker, reason, blameless=blameless))
            self._act()
