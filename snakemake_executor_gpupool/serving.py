"""Models on devices: who holds one, who gets which micro-batch, what a death means. Pure.

Each model (a tool with the params that choose it, on the devices asked for) has a queue
split into LPT shards, and workers that the device allocator has granted devices to::

    asking ──granted──► starting ──► loading ──► ready ◄──► (away: in host memory)
       └────────────── withdrawn                  └──► stopping ──► gone
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.dedup import Unit
from snakemake_executor_gpupool.devices.model import Device
from snakemake_executor_gpupool.devices.strings import DeviceSpec
from snakemake_executor_gpupool.filing import ToolState
from snakemake_executor_gpupool.memory import MemoryUse
from snakemake_executor_gpupool.planner import ShardedQueue
from snakemake_executor_gpupool.profile import Figures

#: Weight of the newest observation in the running mean of seconds per cost unit.
NEWEST_WEIGHT = 0.3


class Stage(enum.Enum):
    """Where a worker stands."""

    ASKING = "asking"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    MOVING = "moving"
    AWAY = "away"
    STOPPING = "stopping"


@dataclass(eq=False)
class Batch:
    """One micro-batch in a worker's hands."""

    batch_id: int
    units: list[Unit]
    sent_s: float

    @property
    def cost(self) -> float:
        """Sum of the items' costs."""
        return sum(unit.cost for unit in self.units)


@dataclass(eq=False)
class ModelWorker:
    """One process that holds, or is to hold, a model."""

    worker_id: str
    model: Model
    stage: Stage = Stage.ASKING
    devices: tuple[Device, ...] = ()
    in_flight: deque[Batch] = field(default_factory=deque)
    since_s: float = 0.0
    idle_since_s: float | None = None
    #: While its weights move: whether to host memory, or back.
    is_leaving: bool = False
    #: Nobody else has anything on its devices.
    is_alone: bool = False
    #: It was ended because it did not answer.
    hung: bool = False

    @property
    def is_feedable(self) -> bool:
        """Whether it can take a micro-batch."""
        return self.stage is Stage.READY


@dataclass(eq=False)
class Model:
    """One model and everything that waits for it.

    Attributes
    ----------
    params_of_group
        The pickled params to send with a micro-batch of each group.
    load_s, s_per_cost
        Measured seconds from asking for a process until it is ready, and per unit of
        cost; None until measured.
    budget_tokens
        Of a micro-batch; None until a worker has loaded and told.
    """

    key: Hashable
    name: str
    tool: ToolState
    spec: DeviceSpec
    params: bytes
    instance: str = ""
    vram_mib: int | None = None
    timeout_s: float | None = None
    priority: int = 0
    queue: ShardedQueue[Unit] = field(default_factory=ShardedQueue)
    suspects: deque[Unit] = field(default_factory=deque)
    #: Units that ran out of device memory although they were alone in their batch.
    oversized: deque[Unit] = field(default_factory=deque)
    params_of_group: dict[str, bytes] = field(default_factory=dict)
    workers: dict[str, ModelWorker] = field(default_factory=dict)
    load_s: float | None = None
    s_per_cost: float | None = None
    budget_tokens: int | None = None
    memory: MemoryUse = field(default_factory=MemoryUse)
    #: Under which the profile keeps the figures.
    profile_key: str = ""
    error: dict[str, Any] | None = None
    load_deaths: int = 0
    has_shrunk: bool = False
    window_opened_s: float | None = None
    items_done: int = 0
    items_total: int = 0
    #: Items of all jobs, duplicates included.
    places: int = 0

    @property
    def info(self) -> dict[str, Any]:
        """What the tool's process said of it."""
        assert self.tool.info is not None
        return self.tool.info

    @property
    def waiting(self) -> int:
        """How many units wait to be sent."""
        return len(self.queue) + len(self.suspects)

    @property
    def alive(self) -> list[ModelWorker]:
        """The workers that have or are getting the model."""
        return [w for w in self.workers.values() if w.stage is not Stage.STOPPING]

    @property
    def in_flight(self) -> int:
        """How many units are in workers' hands."""
        return sum(len(b.units) for w in self.workers.values() for b in w.in_flight)

    def waiting_s(self) -> float:
        """Estimate the seconds that one worker would take for what waits."""
        cost = self.queue.load + sum(unit.cost for unit in self.suspects)
        return cost * (self.s_per_cost or 0.0)

    def remaining_s(self) -> float | None:
        """Estimate the seconds until all is done; None if nothing was measured yet."""
        working = sum(worker.is_feedable for worker in self.workers.values())
        if self.s_per_cost is None or not working:
            return None
        under_way = sum(b.cost for w in self.workers.values() for b in w.in_flight)
        return (self.waiting_s() + under_way * self.s_per_cost) / working

    def push(self, units: Iterable[Unit]) -> None:
        """Queue units."""
        units = list(units)
        self.items_total += len(units)
        self.queue.push(units)

    def next_batch(self, worker: ModelWorker) -> list[Unit]:
        """Take the worker's next micro-batch; an oversized unit or a suspect travels alone.

        Units that nobody waits for any more are left out.
        """
        while self.oversized and worker.is_alone and not worker.in_flight:
            unit = self.oversized.popleft()
            if unit.places:
                return [unit]
        while self.suspects:
            if worker.in_flight:
                return []
            suspect = self.suspects.popleft()
            if suspect.places:
                return [suspect]
        budget = self.budget_tokens or 1
        while True:
            batch = self.queue.take(worker.worker_id, budget, self.info["pads"])
            wanted = [unit for unit in batch if unit.places]
            if wanted or not batch:
                return wanted

    def worth_sending_ahead(self) -> bool:
        """Whether so much waits that a worker should have its next batch beforehand.

        Near the end it should not: a batch that waits behind another could run elsewhere.
        """
        ready = [w for w in self.workers.values() if w.is_feedable]
        in_hands = max((b.cost for w in ready for b in w.in_flight), default=0.0)
        return not self.suspects and self.queue.load > 2 * in_hands * len(ready)

    def give_another_chance(self) -> None:
        """Forget that the model could not be loaded: a retried job may find it can be."""
        self.error, self.load_deaths = None, 0

    def learn_load(self, seconds: float) -> None:
        """Remember how long it took from asking for a process until it was ready."""
        self.load_s = seconds

    def recall(self, figures: Figures) -> None:
        """Start from what earlier runs measured."""
        self.load_s, self.s_per_cost = figures.load_s, figures.s_per_cost
        self.budget_tokens = figures.budget_tokens
        self.memory = MemoryUse(
            figures.weights_mib, figures.peak_mib, figures.peak_tokens, figures.full_tokens
        )

    def figures(self) -> Figures:
        """Return what is worth keeping for later runs."""
        shrunk = self.budget_tokens if self.has_shrunk else None
        held = dataclasses.asdict(self.memory)
        return Figures(self.load_s, self.s_per_cost, budget_tokens=shrunk, **held)

    def learn_batch(self, batch: Batch, seconds: float) -> None:
        """Correct the seconds per cost unit by what a batch took."""
        if batch.cost <= 0:
            return
        observed = seconds / batch.cost
        if self.s_per_cost is None:
            self.s_per_cost = observed
        else:
            self.s_per_cost += NEWEST_WEIGHT * (observed - self.s_per_cost)

    def shrink_budget(self, batch: Batch) -> None:
        """A batch did not fit the device's memory: aim at half of it from now on."""
        longest = max(unit.tokens for unit in batch.units)
        fits = max(self.batch_tokens(batch) // 2, longest, 1)
        self.budget_tokens = min(self.budget_tokens or fits, fits)
        self.has_shrunk = True

    def batch_tokens(self, batch: Batch) -> int:
        """Return how many tokens a micro-batch has, padding included if the tool pads."""
        if self.info["pads"]:
            return len(batch.units) * max(unit.tokens for unit in batch.units)
        return sum(unit.tokens for unit in batch.units)
