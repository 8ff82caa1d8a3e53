"""A world for the scheduler: processes that take simulated time, and nothing else.

The real scheduler decides; this carries its effects out on a clock that jumps. What a test
wants to go wrong, it names: items that kill their worker, loads that fail, and so on.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.deliver import Deliverer
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.testing import invariants
from snakemake_executor_gpupool.testing.processes import SimulatedProcesses
from snakemake_executor_gpupool.testing.world_options import FakeItem, gpu
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: With so many entries in the scheduler's tables, they are compared after each event; with more
#: of them, less often in proportion, and at the end.
CHECKED_EACH = 2


class World(SimulatedProcesses):
    """Devices, processes and files that exist only in time."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
            processors=self.processors,
        )
        self.core = Core(self.setup)
        self.allocator, self.scheduler = self.core.allocator, self.core.scheduler
        #: For tests of frames alone.
        self.deliverer = Deliverer(self.scheduler, self.setup.spools)
        #: Sees each event and what was decided on it, but for what a test does to the scheduler.
        self.on_decided: Callable[[ev.Event, float, list[fx.Effect]], None] = lambda *seen: None
        #: In which wave a job was foreseen that does not say so itself.
        self.wave_of: Callable[[int], str] = lambda job_id: ""
        #: What a graph does once a job has ended.
        self.on_report: Callable[[int], object] = lambda job_id: None
        self._decided: deque[fx.Effect] = deque()
        self.log: list[tuple[float, fx.Effect]] = []
        self.reports: dict[int, str | None] = {}
        self.report_times: dict[int, float] = {}
        #: Jobs whose params are others than those foreseen.
        self.other_params: set[int] = set()
        self.granted: dict[int, tuple[Device, ...]] = {}
        #: Holders whose devices were confirmed as claimed: (holder, devices).
        self.claimed: set[tuple[str, tuple[Device, ...]]] = set()
        #: What messages call a job, where that is not its number.
        self.titles: dict[int, str] = {}
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._unchecked = 0

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
        wave: str = "",
        loads_only: bool = False,
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
            wave=wave or self.wave_of(job_id),
            loads_only=loads_only,
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

    def tell_to_end(self, host: str) -> None:
        """A node is told to end: its processes go on until they are ended."""
        names = tuple(device.name for device in self.devices if device.host == host)
        self.take(ev.DevicesRemoved(names, at_once=True))
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
        invariants.check(self.scheduler)
        return self.now_s

    def _next_s(self) -> float:
        """When something happens next, a tick of the run loop included; never if all is done."""
        event_s = self._events[0][0] if self._events else math.inf
        if self.scheduler.is_quiet:
            return event_s
        return min(event_s, self.scheduler.next_wake_s(self.now_s))

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
            case fx.DescribeModel():
                self._later(effect.worker_id, self.read_s, lambda: self._foresee(effect))
            case fx.CheckWorker(worker_id=worker):
                holds = worker not in self.changed_workers
                self._later(worker, 0.0, lambda: self._answer(worker, "checked", holds=holds))
            case fx.WriteJob(worker_id=worker, request=request):
                values = [self.text(b) for piece in effect.settled for b in piece.results()]
                values += [self.text(effect.blobs[place]) for place in effect.order]
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
                self.on_report(report.job_id)
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
