"""A thousand devices and a million items through the real scheduler, without any process.

``python bench/scale.py [--devices 1000] [--items 1000000]`` prints how many items a second are
decided on (read, kept apart from their duplicates, planned, sent, answered, gathered) and how
much memory the coordinator takes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import resource
import sys
import time
from typing import Any

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.messages import ItemsRead, ToolImported, Written
from snakemake_executor_gpupool.wire.model_messages import BatchDone, Loaded
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

CARDS_PER_NODE = 8
ITEMS_PER_FRAME = 500
ITEMS_PER_BATCH = 64
ITEMS_PER_S_TO_REACH = 20_000
MIB_TO_REACH = 2048
INFO = ToolInfo(
    deterministic=True,
    persistent=True,
    devices=("cuda",),
    gpus_per_instance=1,
    pads=False,
    vram_mib=None,
    batch_limit_s=1e9,
    can_move=False,
)
#: Bulk, as so many items are.
MODEL = ModelInfo("m", label="", group="g", short_tokens=0)


class Simulation:
    """Carries the scheduler's effects out on a clock that jumps; computes nothing.

    Parameters
    ----------
    devices
        How many cards, eight a node.
    items, items_per_job
        How much work.
    """

    def __init__(self, devices: int, items: int, items_per_job: int) -> None:
        cards = [
            Device(f"cuda:{i % CARDS_PER_NODE}", "cuda", i % CARDS_PER_NODE).on(
                f"n{i // CARDS_PER_NODE}"
            )
            for i in range(devices)
        ]
        self.scheduler = Scheduler(Allocator(cards), file_workers=2)
        self._items_per_job = items_per_job
        self._jobs = items // items_per_job
        self._now_s = 0.0
        self._numbers = itertools.count()
        self._coming: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._free_s: dict[str, float] = {}  # when each worker has finished what it has
        self.done = 0

    def run(self) -> None:
        """Submit all jobs and let time pass until the last one is done."""
        tool = ToolRef("tool", "/", "python")
        for job_id in range(self._jobs):
            title = f"rule r (i={job_id})"
            request = Request(job_id, title, tool, job=b"", params=b"", cwd="/")
            self.scheduler.submit(request, 0.0)
        self._act()
        while self.done < self._jobs:
            if not self._coming:
                self._now_s = self.scheduler.next_wake_s(self._now_s)
                self.scheduler.tick(self._now_s)
            else:
                self._now_s, _, act, arguments = heapq.heappop(self._coming)
                act(*arguments)
            self._act()

    def _later(self, seconds: float, act: Any, *arguments: Any) -> None:
        heapq.heappush(self._coming, (self._now_s + seconds, next(self._numbers), act, arguments))

    def _act(self) -> None:
        while taken := self.scheduler.outbox.take():
            for effect in taken:
                self._carry_out(effect)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.RunBatch():
                seconds = sum(item.cost for item in effect.items) / 1000.0
                start_s = max(self._free_s.get(effect.worker_id, 0.0), self._now_s)
                self._free_s[effect.worker_id] = start_s + seconds
                self._later(start_s + seconds - self._now_s, self._computed, effect, seconds)
            case fx.StartWorker(worker_id=worker):
                message = ToolImported(INFO, seconds=0.5, versions={})
                self._later(0.5, lambda: self.scheduler.process_ready(worker, message, self._now_s))
            case fx.ClaimDevices(holder_id=holder):
                self.scheduler.devices_claimed(holder, self._now_s)
            case fx.LoadModel(worker_id=worker):
                self._later(2.0, self._loaded, worker)
            case fx.ReadJob(worker_id=worker, request=request):
                self._later(0.0, self._read, worker, request.job_id)
            case fx.WriteJob(worker_id=worker, request=request):
                self._later(0.0, self._written, worker, request.job_id)
            case fx.Report(report=report):
                assert report.error is None, report.error
                self.done += 1
            case fx.StopWorker(worker_id=worker):
                self._later(0.01, lambda: self.scheduler.died(worker, "ended", self._now_s))

    def _loaded(self, worker: str) -> None:
        self.scheduler.model_answers.loaded(worker, Loaded(ITEMS_PER_BATCH, 2.0), self._now_s)

    def _computed(self, effect: fx.RunBatch, seconds: float) -> None:
        count = len(effect.items)
        message = BatchDone(effect.batch_id, count, (b"result",) * count, seconds)
        self.scheduler.model_answers.batch_done(effect.worker_id, message, self._now_s)

    def _read(self, worker: str, job_id: int) -> None:
        first = job_id * self._items_per_job
        for start in range(0, self._items_per_job, ITEMS_PER_FRAME):
            count = min(ITEMS_PER_FRAME, self._items_per_job - start)
            numbers = range(first + start, first + start + count)
            names = tuple(map(str, numbers))
            costs = tuple(1.0 + n % 7 for n in numbers)
            is_last = start + count == self._items_per_job
            columns = names, costs, (1,) * count, names, (b"item",) * count
            message = ItemsRead(job_id, MODEL, *columns, is_last=is_last)
            self.scheduler.answers.items_read(worker, message, self._now_s)

    def _written(self, worker: str, job_id: int) -> None:
        self.scheduler.answers.written(worker, Written(job_id, 0.0), self._now_s)


def main() -> None:
    """Run the simulation, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--items-per-job", type=int, default=100)
    options = parser.parse_args()
    simulation = Simulation(options.devices, options.items, options.items_per_job)
    started_s = time.process_time()
    simulation.run()
    seconds = time.process_time() - started_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = options.items / seconds
    is_reached = rate >= ITEMS_PER_S_TO_REACH and peak_mib <= MIB_TO_REACH
    print(
        f"{options.items} items on {options.devices} devices: {seconds:.1f} s of processor time, "
        f"{rate:.0f} items/s (to reach: {ITEMS_PER_S_TO_REACH}), {peak_mib:.0f} MiB at most "
        f"(to reach: {MIB_TO_REACH}), "
        f"{simulation.scheduler.dispatch.counts['model_loads']} model loads: "
        f"{'PASS' if is_reached else 'FAIL'}"
    )
    sys.exit(not is_reached)


if __name__ == "__main__":
    main()
