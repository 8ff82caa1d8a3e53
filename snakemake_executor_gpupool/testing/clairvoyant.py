"""How soon a graph can be done by somebody who knows all of it: bounds from below and from above.

From below: what no schedule can beat. From above: the best of many schedules, each made by a list
scheduler that knows every cost, every job and when it will be ready, with weights drawn at random.
What the real scheduler could gain at most lies between the two.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.testing.graphs import Graph

#: What a micro-batch of simulated runs takes beside its items, and how many it holds.
DISPATCH_S, BATCH_ITEMS = 0.05, 4


def least_makespan(graph: Graph, loads: int) -> float:
    """Return what no schedule can beat that needs at least so many loads.

    The largest of: all work and all loads, spread evenly over as many devices as would be best;
    and, for each pair of times, what can start only so late and has so much behind it, spread
    evenly between the two.
    """
    work_s = [_work_s(job.costs) for job in graph.jobs]
    total_s = sum(work_s)
    evenly_s = min(
        (total_s + max(loads, used) * graph.load_s) / used for used in range(1, graph.devices + 1)
    )
    heads_s, tails_s = heads_and_tails(graph)
    bound_s = evenly_s
    for head_s in sorted(set(heads_s)):
        late = [n for n in range(len(heads_s)) if heads_s[n] >= head_s]
        behind = sorted(late, key=lambda n: -tails_s[n])
        sum_s = 0.0
        for n in behind:
            sum_s += work_s[n]
            between_s = max(sum_s / graph.devices, _span_s(graph.jobs[n].costs))
            bound_s = max(bound_s, head_s + between_s + tails_s[n])
    return bound_s


def heads_and_tails(graph: Graph) -> tuple[list[float], list[float]]:
    """Return for each job how soon it can start, and how long it takes after its end at least."""
    heads_s = [graph.load_s] * len(graph.jobs)
    tails_s = [0.0] * len(graph.jobs)
    spans_s = [_span_s(job.costs) for job in graph.jobs]
    for number, job in enumerate(graph.jobs):
        heads_s[number] = max([graph.load_s, *(heads_s[n] + spans_s[n] for n in job.after)])
    for number in reversed(range(len(graph.jobs))):
        for before in graph.jobs[number].after:
            tails_s[before] = max(tails_s[before], spans_s[number] + tails_s[number])
    return heads_s, tails_s


def _work_s(costs: Sequence[float]) -> float:
    """Return what a job takes all devices together: full micro-batches of the whole graph."""
    return sum(costs) + DISPATCH_S * len(costs) / BATCH_ITEMS


def _span_s(costs: Sequence[float]) -> float:
    """Return what a job takes with a device for each item."""
    return max(costs) + DISPATCH_S


@dataclass(frozen=True)
class Weights:
    """How one list schedule decides.

    Attributes
    ----------
    switch
        What another model counts that waits behind a job, in loads.
    load
        What a load counts against the longest way to the end, in loads.
    amount
        What ready work counts for each worker of its model.
    pays
        One more worker of a model is loaded if its work for each exceeds so many loads.
    ahead
        Whether free devices load models before they have work.
    batch
        How many items a micro-batch holds at most.
    noise
        By how much the order of jobs is disturbed.
    """

    switch: float = 0.0
    load: float = 1.0
    amount: float = 0.0
    pays: float = 1.0
    ahead: bool = True
    batch: int = BATCH_ITEMS
    noise: float = 0.0


def drawn(rng: random.Random) -> Weights:
    """Draw weights."""
    return Weights(
        switch=rng.choice((0.0, 0.5, 1.0)),
        load=rng.uniform(0.0, 4.0),
        amount=rng.choice((0.0, 0.2, 1.0)),
        pays=rng.uniform(0.2, 3.0),
        ahead=rng.random() < 0.7,
        batch=rng.choice((1, 2, BATCH_ITEMS)),
        noise=rng.choice((0.0, 0.05, 0.3)),
    )


def best_makespan(graph: Graph, tries: int = 200, seed: int = 0) -> float:
    """Return the least makespan of so many list schedules."""
    rng = random.Random(seed)
    best_s = math.inf
    for _ in range(tries):
        best_s = min(best_s, ListSchedule(graph, drawn(rng), rng).run())
    return best_s


@dataclass
class _Device:
    """One device: which model it has, or is getting, and until when it is at something."""

    model: str = ""
    is_busy: bool = False
    #: It has computed nothing since its model was loaded.
    is_fresh: bool = False


@dataclass
class ListSchedule:
    """One schedule, made in simulated time."""

    graph: Graph
    weights: Weights
    rng: random.Random
    now_s: float = 0.0
    loads: int = 0
    #: What happened: (start, end, device, model, items); an empty list of items is a load.
    done: list[tuple[float, float, int, str, list[tuple[int, int]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        jobs = self.graph.jobs
        self._readers: defaultdict[int, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            for before in job.after:
                self._readers[before].append(number)
        self._lacks = [len(set(job.after)) for job in jobs]
        self._left = [len(job.costs) for job in jobs]
        self._rank = self._ranks()
        self._ready: dict[str, list[tuple[float, float, int, int]]] = defaultdict(list)
        self._ready_s: defaultdict[str, float] = defaultdict(float)
        self._to_do_s: defaultdict[str, float] = defaultdict(float)
        for job in jobs:
            self._to_do_s[job.model] += sum(job.costs)
        self._devices = [_Device() for _ in range(self.graph.devices)]
        self._ends: list[tuple[float, int, list[tuple[int, int]]]] = []

    def _ranks(self) -> list[float]:
        """Return the longest way to the end from each job on, models that change included."""
        jobs, ranks = self.graph.jobs, [0.0] * len(self.graph.jobs)
        for number in reversed(range(len(jobs))):
            behind = [
                ranks[n]
                + self.weights.switch * self.graph.load_s * (jobs[n].model != jobs[number].model)
                for n in self._readers[number]
            ]
            ranks[number] = max(behind, default=0.0) + _span_s(jobs[number].costs)
        noise = self.weights.noise
        return [rank * (1.0 + self.rng.uniform(-noise, noise)) for rank in ranks]

    def run(self) -> float:
        """Return the makespan."""
        for number, lacks in enumerate(self._lacks):
            if not lacks:
                self._becomes_ready(number)
        self._decide()
        while self._ends:
            self.now_s = self._ends[0][0]
            while self._ends and self._ends[0][0] <= self.now_s:
                _, device, items = heapq.heappop(self._ends)
                self._devices[device].is_busy = False
                for number, _ in items:
                    self._item_done(number)
            self._decide()
        assert not any(self._left)
        return self.now_s

    def _becomes_ready(self, number: int) -> None:
        job = self.graph.jobs[number]
        for place, cost in enumerate(job.costs):
            heapq.heappush(self._ready[job.model], (-self._rank[number], -cost, number, place))
            self._ready_s[job.model] += cost

    def _item_done(self, number: int) -> None:
        self._left[number] -= 1
        if not self._left[number]:
            for reader in self._readers[number]:
                self._lacks[reader] -= 1
                if not self._lacks[reader]:
                    self._becomes_ready(reader)

    def _decide(self) -> None:
        while free := [n for n, device in enumerate(self._devices) if not device.is_busy]:
            if not self._one(free):
                return

    def _one(self, free: list[int]) -> bool:
        """Give one free device something to do; return whether there was anything."""
        for device in free:  # else nobody would ever compute where a load takes no time
            if self._devices[device].is_fresh and self._ready.get(self._devices[device].model):
                self._compute(device, self._devices[device].model)
                return True
        best = self._best(free)
        if best is None:
            return self.weights.ahead and self._load_ahead(free)
        _, model, device = best
        if self._devices[device].model == model:
            self._compute(device, model)
        else:
            self._load(device, model)
        return True

    def _best(self, free: list[int]) -> tuple[float, str, int] | None:
        """Return which model gets which free device, with its score."""
        best: tuple[float, str, int] | None = None
        for model, ready in self._ready.items():
            if not ready:
                continue
            having = [n for n in free if self._devices[n].model == model]
            workers = sum(device.model == model for device in self._devices)
            score = -ready[0][0] + self.weights.amount * self._ready_s[model] / max(workers, 1)
            if not having:
                least_s = self.weights.pays * self.graph.load_s
                if workers and self._ready_s[model] / workers <= least_s:
                    continue
                if len(ready) <= self._fresh(model):
                    continue
                score -= self.weights.load * self.graph.load_s
            device = having[0] if having else self._victim(free)
            if best is None or score > best[0]:
                best = score, model, device
        return best

    def _fresh(self, model: str) -> int:
        """Return how many workers of a model have computed nothing yet."""
        return sum(device.model == model and device.is_fresh for device in self._devices)

    def _victim(self, free: list[int]) -> int:
        """Return the free device whose model has least to do for each of its workers."""
        count = defaultdict[str, int](int)
        for device in self._devices:
            count[device.model] += 1

        def value(number: int) -> tuple[bool, float]:
            model = self._devices[number].model
            return bool(self._ready.get(model)), self._to_do_s[model] / count[model]

        return min(free, key=value)

    def _load_ahead(self, free: list[int]) -> bool:
        there = {device.model for device in self._devices}
        missing = [m for m, left_s in self._to_do_s.items() if left_s > 1e-9 and m not in there]
        needless = [n for n in free if self._to_do_s[self._devices[n].model] <= 1e-9]
        if not missing or not needless:
            return False
        self._load(needless[0], self.rng.choice(missing))
        return True

    def _load(self, device: int, model: str) -> None:
        self.loads += 1
        self._devices[device].model, self._devices[device].is_fresh = model, True
        self._begin(device, self.graph.load_s, [])

    def _compute(self, device: int, model: str) -> None:
        ready = self._ready[model]
        self._devices[device].is_fresh = False
        workers = sum(each.model == model for each in self._devices)
        most_s = self._ready_s[model] / (2 * workers) if workers > 1 else math.inf
        items: list[tuple[int, int]] = []
        seconds = 0.0
        while ready and len(items) < self.weights.batch:
            if items and seconds - ready[0][1] > most_s:
                break
            _, cost, number, place = heapq.heappop(ready)
            items.append((number, place))
            seconds -= cost
        self._ready_s[model] = self._ready_s[model] - seconds if ready else 0.0
        self._to_do_s[model] -= seconds
        self._begin(device, seconds + DISPATCH_S, items)

    def _begin(self, device: int, seconds: float, items: list[tuple[int, int]]) -> None:
        self._devices[device].is_busy = True
        end_s = self.now_s + seconds
        self.done.append((self.now_s, end_s, device, self._devices[device].model, items))
        heapq.heappush(self._ends, (end_s, device, items))
