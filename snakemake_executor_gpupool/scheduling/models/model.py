"""Models on devices: who holds one, who gets which micro-batch, what a death means. Pure.

Each model (a tool with the params that choose it, on the devices asked for) has a queue, the
costliest items first, and workers that the device allocator has granted devices to::

    asking ──granted──► claiming ──► starting ──► loading ──► ready ◄──► (away: in host memory)
       │ ▲──refused─────────┘                                   └──► stopping ──► gone
       └─── withdrawn
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.models.batch_time import Speed
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.large_jobs import LargeJobs
from snakemake_executor_gpupool.scheduling.models.memory_use import MemoryUse
from snakemake_executor_gpupool.scheduling.models.model_worker import Batch, ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.models.plan import fair_share, workers_that_pay
from snakemake_executor_gpupool.scheduling.models.quick_batches import QuickBatches
from snakemake_executor_gpupool.scheduling.models.row_figures import RowFigures
from snakemake_executor_gpupool.scheduling.models.work_queue import WorkQueue
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.tool_api.micro_batches import size_of
from snakemake_executor_gpupool.wire.described import ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.requests import ToolRef

#: Before anything was measured: one worker more for every so many items that wait.
ITEMS_PER_UNMEASURED_WORKER = 8
#: With more items than this, one worker more or less is judged by their mean cost.
JUDGED_ONE_BY_ONE = 64
#: Towards the end micro-batches become smaller, until the fixed part of their time is this share.
MAX_OVERHEAD = 0.5
#: So many of a model's loads are remembered, the latest.
MAX_LOADS = 32
#: The first dispatch of merged requests may have as many micro-batches of its first model.
FIRST_ROUND = 4


@dataclass(eq=False)
class Model:
    """One model and everything that waits for it.

    Attributes
    ----------
    params_of_group
        The pickled params to send with a micro-batch of each group.
    load_s
        Measured seconds from asking for a process until it is ready; None until measured.
    speed
        What micro-batches were measured to take.
    budget_tokens
        Of a micro-batch; None until a worker has loaded the model and reported it.
    quick
        How far one may go beyond that.
    suspects
        Items to be computed alone, since a worker died with them and others in flight.
    resting
        Suspects that wait before they are tried again, and until when.
    """

    key: Hashable
    name: str
    tool: FileWorkerPool
    spec: DeviceSpec
    params: bytes
    #: For a merged run: the params of its further models.
    more_params: tuple[bytes, ...] = ()
    instance: str = ""
    vram_mib: int | None = None
    priority: int = 0
    queue: WorkQueue[WorkItem] = field(default_factory=WorkQueue)
    suspects: deque[WorkItem] = field(default_factory=deque)
    #: Units that ran out of device memory although they were alone in their batch.
    oversized: deque[WorkItem] = field(default_factory=deque)
    resting: list[tuple[float, WorkItem]] = field(default_factory=list)
    params_of_group: dict[str, bytes] = field(default_factory=dict)
    #: With so many of them, those of no item are forgotten.
    most_groups: int = 0
    workers: dict[str, ModelWorker] = field(default_factory=dict)
    #: Jobs that wait until it is loaded, and want nothing of it.
    awaited_by: list[int] = field(default_factory=list)
    load_s: float | None = None
    speed: Speed = field(default_factory=Speed)
    budget_tokens: int | None = None
    quick: QuickBatches = field(default_factory=QuickBatches)
    memory: MemoryUse = field(default_factory=MemoryUse)
    #: What file processes call it, as they see its code and its weights; of a merged run: empty.
    ident: str = ""
    #: Under which the profile keeps the figures.
    profile_key: str = ""
    error: WorkerError | None = None
    #: By group: why no item with its params can be computed, whichever it is.
    broken: dict[str, WorkerError] = field(default_factory=dict)
    #: How many workers of a merged run have died.
    chain_deaths: int = 0
    #: What was measured of merged requests.
    merged: RowFigures = field(default_factory=RowFigures)
    #: Whether a worker has ever loaded it in this run.
    has_loaded: bool = False
    #: It has had no job yet: one that is to come will need it, most likely.
    is_foretold: bool = False
    #: It is not loaded before there is work for it: once that came to nothing.
    is_barred_ahead: bool = False
    #: So many workers more would pay, but may not have the devices that there are.
    held_back: int = 0
    has_shrunk: bool = False
    window_opened_s: float | None = None
    #: How often jobs were waited for that did not come.
    vain_windows: int = 0
    #: Whether short requests have come beside others.
    has_short: bool = False
    items_done: int = 0
    items_total: int = 0
    #: Items of all jobs, duplicates included.
    places: int = 0
    large_jobs: LargeJobs = field(default_factory=LargeJobs)
    _loads_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LOADS))

    @property
    def is_chain(self) -> bool:
        """Whether it is several models side by side, for short requests."""
        return bool(self.more_params)

    @property
    def parts(self) -> tuple[tuple[str, ToolRef], ...]:
        """Of a row: what file processes call each of its models, and the tool that it is of."""
        return self.key[1]  # type: ignore[index, no-any-return]

    @property
    def info(self) -> ToolInfo:
        """What the tool's process said of it."""
        assert self.tool.info is not None
        return self.tool.info

    @property
    def is_unused(self) -> bool:
        """Whether it has no worker and no work."""
        has_work = bool(self.awaited_by) or any(True for _ in self.items())
        return not self.workers and not has_work

    def items(self) -> Iterator[WorkItem]:
        """Yield the items that wait, rest or are in flight."""
        yield from (*self.queue, *self.suspects, *self.oversized)
        yield from (item for _, item in self.resting)
        for worker in self.workers.values():
            for batch in worker.in_flight:
                yield from batch.items

    @property
    def has_full_round(self) -> bool:
        """Whether as many merged requests wait as a dispatch should have."""
        if not self.is_chain:
            return False
        tokens = max(next((item.tokens for item in self.queue), 1), 1)
        most = (self.budget_tokens or 1) // tokens
        return self.merged.is_full(
            self.queue, 1 + len(self.more_params), most, not self.in_flight, self.load_s
        )

    @property
    def round_size(self) -> int | None:
        """How many merged requests a dispatch should have; None: as many as fit."""
        if not self.is_chain:
            return None
        return self.merged.round_size(1 + len(self.more_params), load_s=self.load_s)

    @property
    def waiting(self) -> int:
        """How many items wait and can be sent now."""
        return len(self.queue) + len(self.suspects)

    @property
    def alive(self) -> list[ModelWorker]:
        """The workers that have or are getting the model."""
        return [w for w in self.workers.values() if w.stage is not Stage.STOPPING]

    @property
    def in_flight(self) -> int:
        """How many items are in flight."""
        return sum(len(b.items) for w in self.workers.values() for b in w.in_flight)

    def remaining_s(self) -> float | None:
        """Estimate the seconds until all is done; None if nothing was measured yet."""
        working = sum(worker.is_feedable for worker in self.workers.values())
        under_way = [batch for w in self.workers.values() for batch in w.in_flight]
        cost = self.waiting_cost() + sum(batch.cost for batch in under_way)
        batches = len(under_way) + (self.speed.batches_of(self.waiting) if self.waiting else 0.0)
        seconds = self.speed.seconds(cost, batches)
        return None if seconds is None or not working else seconds / working

    def waiting_cost(self) -> float:
        """Return the cost of all that waits."""
        more = sum([item.cost for item in self.suspects]) if self.suspects else 0.0
        return self.queue.load + more

    def workers_wanted(
        self, free: int, most: int, now_s: float, later_s: Sequence[float] = (), price: float = 1.0
    ) -> int:
        """Return how many workers the model should have, what waits considered.

        Parameters
        ----------
        free
            How many more could start on devices that nobody uses.
        most
            How many there may be.
        later_s
            Seconds of each job that comes before one more worker could be ready.
        price
            How many loads one more has to save that takes a device from another model.
        """
        if not self.waiting:
            return min(1 if self.awaited_by else 0, most)
        if self.load_s is None or self.speed.s_per_cost is None:
            return min(1 + self.waiting // ITEMS_PER_UNMEASURED_WORKER, most)
        # The fixed time of each worker's first batch; that of further ones is in the items' share.
        fixed_s = self.speed.fixed_s
        coming = [worker for worker in self.workers.values() if worker.is_coming]
        free_at_s = [self.free_in_s(worker, now_s) + fixed_s for worker in coming]
        items_s = [*self._items_s(), *later_s]
        start_s = self.load_s + fixed_s
        return workers_that_pay(items_s, free_at_s, start_s, free, most, price * start_s)

    def _items_s(self) -> list[float]:
        """Estimate the seconds of what waits, item by item if there are few.

        What is not work yet of large jobs is counted as more of the same.
        """
        assert self.speed.s_per_cost is not None
        cost, times = self.waiting_cost(), 1.0
        if later := self.large_jobs.later_cost:
            times = (cost + later) / cost if cost else 1.0
        if self.waiting <= JUDGED_ONE_BY_ONE and not later:
            costs = [item.cost for item in (*self.suspects, *self.queue)]
        else:
            costs = [(cost + later) / JUDGED_ONE_BY_ONE] * JUDGED_ONE_BY_ONE
        more_batches = self.speed.batches_of(self.waiting) * times - 1.0
        share_s = self.speed.fixed_s * more_batches / len(costs)
        return [self.speed.s_per_cost * cost + share_s for cost in costs]

    def free_in_s(self, worker: ModelWorker, now_s: float) -> float:
        """Estimate in how many seconds a worker can start with what waits."""
        if worker.is_feedable or worker.stage is Stage.CHECKING:
            end_s = sum([self.speed.seconds(batch.cost) or 0.0 for batch in worker.in_flight])
            since_s = worker.in_flight[0].sent_s if worker.in_flight else now_s
        else:
            end_s, since_s = self.load_s or 0.0, worker.since_s
        return max(since_s + end_s - now_s, 0.0)

    def push(self, items: Sequence[WorkItem]) -> None:
        """Queue items."""
        self.items_total += len(items)
        self.queue.push(items)
        self.has_short = self.has_short or self.queue.has_levels

    def next_batch(self, worker: ModelWorker) -> tuple[list[WorkItem], list[WorkItem]]:
        """Take the worker's next micro-batch; an oversized item or a suspect travels alone.

        Returns
        -------
        tuple
            The micro-batch, empty if the worker is to have none, and the items that were taken
            out and left out of it because nobody waits for them any more.
        """
        unwanted: list[WorkItem] = []
        while self.oversized and worker.is_alone and not worker.in_flight:
            item = self.oversized.popleft()
            if item.waiters:
                return [item], unwanted
            unwanted.append(item)
        while self.suspects:
            if worker.in_flight:
                return [], unwanted
            item = self.suspects.popleft()
            if item.waiters:
                return [item], unwanted
            unwanted.append(item)
        budget = self.budget_tokens or 1
        if self.is_chain and (worker.is_by_stage or not worker.has_all_stages):
            # While it loads the models of later stages, there is more to do with the first one's.
            budget *= FIRST_ROUND
        bounds = self.info.pads, self._most_batch_cost(), self.quick.bounds(self.speed)
        while batch := self.queue.take(budget, *bounds):
            wanted = [item for item in batch if item.waiters]
            if len(wanted) < len(batch):
                unwanted += [item for item in batch if not item.waiters]
            if wanted:
                return wanted, unwanted
        return [], unwanted

    def wake_resting(self, now_s: float) -> None:
        """Let suspects that have waited long enough be tried again."""
        if self.resting:
            self.suspects.extend(item for until_s, item in self.resting if until_s <= now_s)
            self.resting = [(until_s, item) for until_s, item in self.resting if until_s > now_s]

    def _most_batch_cost(self) -> float:
        """Return how much cost the next micro-batch may have."""
        if self.is_chain:
            size = self.round_size if self.queue else None
            return math.inf if size is None else size * self.queue.load / len(self.queue)
        if not self.info.persistent:
            return math.inf
        share = fair_share(self.queue.load, len(self.workers) + min(self.held_back, 1))
        if not self.speed.s_per_cost:
            return share
        return max(share, self.speed.fixed_s / self.speed.s_per_cost / MAX_OVERHEAD)

    def fits_one_batch(self, items: list[WorkItem]) -> bool:
        """Whether items may share a micro-batch, and it is no more than what one should have."""
        batch = Batch(0, items, 0.0)
        fits = self.batch_tokens(batch) <= (self.budget_tokens or 1)
        same = len({item.group for item in items}) == 1
        return same and fits and batch.cost <= self._most_batch_cost()

    def most_in_flight_for_another(self) -> float:
        """Return the cost below which a busy worker should have its next batch beforehand.

        Near the end there is none: a batch that waits behind another could run elsewhere. Nor
        is there where short requests come, which would wait for both.
        """
        if self.round_size is not None and not self.suspects:
            # They are brief, and meanwhile it would have nothing to do.
            return math.inf if self.has_full_round or not self.tool.is_reading else 0.0
        if self.suspects or (self.has_short and not self.is_chain):
            return 0.0
        return self.queue.load / (2 * max(len(self.workers) + min(self.held_back, 1), 1))

    def learn_load(self, seconds: float) -> None:
        """Take in how long it took from asking for a process until it was ready."""
        self._loads_s.append(seconds)
        self.load_s = statistics.median(self._loads_s)

    @property
    def last_load_s(self) -> float | None:
        """What the last load took, of this run or an earlier one; None: it was never loaded."""
        return self._loads_s[-1] if self._loads_s else None

    def recall(self, figures: Figures) -> None:
        """Start from what earlier runs measured."""
        self.load_s = figures.load_s
        # One observation among those to come: that load may have found a cold disk.
        self._loads_s.clear()
        if figures.load_s is not None:
            self._loads_s.append(figures.load_s)
        self.speed = Speed(figures.s_per_cost, figures.fixed_s)
        self.merged = RowFigures.recalled(figures)
        self.budget_tokens = figures.budget_tokens
        self.memory = MemoryUse(
            figures.weights_mib, figures.peak_mib, figures.peak_tokens, figures.full_tokens
        )

    def figures(self) -> Figures:
        """Return what is worth keeping for later runs."""
        shrunk = self.budget_tokens if self.has_shrunk else None
        held = dataclasses.asdict(self.memory)
        speed = self.speed.s_per_cost, self.speed.fixed_s if self.speed.s_per_cost else None
        row = self.merged
        return Figures(
            self.load_s,
            *speed,
            budget_tokens=shrunk,
            later_loads_s=row.later_loads_s,
            job_compute_s=row.compute_s,
            job_files_s=row.files_s,
            **held,
        )

    def shrink_budget(self, batch: Batch) -> None:
        """A batch did not fit the device's memory: aim at half of it from now on."""
        longest = max(item.tokens for item in batch.items)
        fits = max(self.batch_tokens(batch) // 2, longest, 1)
        self.budget_tokens = min(self.budget_tokens or fits, fits)
        self.has_shrunk = True
        self.quick.most_tokens = 0

    def batch_tokens(self, batch: Batch) -> int:
        """Return how many tokens a micro-batch has, padding included if the tool pads."""
        return size_of(batch.tokens, self.info.pads)
