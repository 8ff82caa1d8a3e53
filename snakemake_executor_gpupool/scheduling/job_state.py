"""One job in flight: where it stands, which items it has, what it took. Plain values."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.files.queue import SMALL_BYTES, Level
from snakemake_executor_gpupool.scheduling.merging.stage import Place
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import StagedOutputs
from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost
from snakemake_executor_gpupool.scheduling.packed import Later, PackedItems
from snakemake_executor_gpupool.scheduling.provenance import Came, came_merged
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import Request

#: With less than this part of what may be open, workers could soon have nothing to do.
FEW_OPEN = 8


class JobPhase(enum.Enum):
    """Where a job stands."""

    WAITING = "waiting"
    READING = "reading"
    COMPUTING = "computing"
    WRITING = "writing"
    #: Its outputs, which a merged run has staged, are put in place.
    PUBLISHING = "publishing"
    #: A merged run computes its items and writes its outputs.
    MERGED = "merged"


@dataclass(eq=False)
class JobState:
    """One job in flight.

    Attributes
    ----------
    settled, items
        Its items, in its order: of a large job results of the first ones, then work items.
    names
        Of those in ``items``.
    backlog, later
        Of a large job: what was read of it and is not yet work; how much of it is still to come.
    asks
        It is a call whose caller waits to be asked for more of its items.
    most_in_batch
        How many of its items were computed together.
    cost_read
        Of its items that had no result when they came.
    missing
        How many of ``items`` have no result yet.
    cost_on
        On a cluster: what was computed for it on each node while it waited, as costs of items.
    cost
        What it has taken of devices.
    duplicates
        How many of its items another place had asked for before.
    reused
        How many of its distinct items had a result that an earlier run had left.
    """

    request: Request
    phase: JobPhase = JobPhase.WAITING
    items: list[WorkItem] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    settled: list[SettledItems] = field(default_factory=list)
    backlog: deque[PackedItems] = field(default_factory=deque)
    later: Later = field(default_factory=Later)
    asks: bool = False
    most_in_batch: int = 0
    cost_read: float = 0.0
    missing: int = 0
    all_read: bool = False
    seconds: float = 0.0
    workers: set[str] = field(default_factory=set)
    cost_on: dict[str, float] | None = None
    cost: JobCost = field(default_factory=JobCost)
    duplicates: int = 0
    reused: int = 0
    #: Results of its lie in files: they stay as they are.
    has_files: bool = False
    #: So many of ``items`` are done, from the first on, as far as it was looked.
    done_items: int = 0
    #: How it came by what is settled.
    came: Came | None = None
    #: What its model is called in keys; empty: not known yet.
    model: str = ""
    #: Of its files, as far as known.
    input_hashes: tuple[str, ...] = ()
    output_hashes: tuple[str, ...] = ()
    #: It is a call, not a rule's job: its results go into the report.
    wants_results: bool = False
    #: How many of its items' results a merged run had computed beforehand.
    claimed: int = 0
    #: What a merged run has staged for it.
    staged: StagedOutputs | None = None
    #: The merged run that is to compute it and write its outputs; 0: none was.
    merge_id: int = 0
    #: A worker was given an item that this job was the first to ask for.
    is_handed_out: bool = False
    #: Why nobody wants it any longer, while a process may still write its outputs; empty: it is.
    unwanted: str = ""
    #: Whether it is short, as :func:`~.merging.is_short` has it.
    is_brief: bool = False
    #: It follows a job that was not merged, and is not, either.
    goes_apart: bool = False
    #: Which stage of which row it is, if the job before it went through that row by itself.
    place: Place | None = None

    @property
    def read_level(self) -> Level:
        """When its inputs are read: by priority, small ones before large ones."""
        return -self.request.priority, int(self.request.input_bytes > SMALL_BYTES)

    @property
    def write_level(self) -> Level:
        """When its outputs are written: by priority, those of short jobs before others."""
        return -self.request.priority, int(not self.is_brief and self.staged is None)

    @property
    def may_settle(self) -> bool:
        """Whether results may be put into columns."""
        return not (self.has_files or self.is_brief)

    @property
    def has_room_for_next(self) -> bool:
        """Whether items that wait packed, or at a call's caller, may become work now."""
        if self.backlog:
            return has_room(self, self.backlog[0].count)
        if not self.asks or not has_room(self, packed.CALL_ITEMS):
            return False
        most = max(packed.CALL_OPEN, packed.CALL_BATCHES * self.most_in_batch)
        most *= 1 + len(self.workers)
        return not self.missing or self.missing + packed.CALL_ITEMS <= most

    @property
    def is_large(self) -> bool:
        """Whether those of its items that are done become columns, one after the other."""
        most = packed.CALL_FIRST if self.wants_results else packed.MAX_OPEN
        return bool(self.settled) or len(self.items) > most

    @property
    def has_many_objects(self) -> bool:
        """Whether it has as many items that are done and not settled as may be open."""
        return len(self.items) > 2 * packed.MAX_OPEN

    @property
    def item_count(self) -> int:
        """How many items it has, as far as they have become work."""
        return sum(map(len, self.settled)) + len(self.items)

    def name_of(self, item: WorkItem) -> str:
        """Return what the job calls an item, its first one if it has several like it."""
        named = zip(self.items, self.names, strict=True)
        return next((name for each, name in named if each is item), item.name)

    def gather(self) -> tuple[list[int], list[Blob]]:
        """Return each distinct result of ``items`` once, and for each which of them is its own."""
        if not self.duplicates:
            results = [item.result for item in self.items if item.result is not None]
            assert len(results) == len(self.items)
            return list(range(len(results))), results
        places: dict[int, int] = {}
        blobs: list[Blob] = []
        order = []
        for item in self.items:
            if id(item) not in places:
                assert item.result is not None
                places[id(item)] = len(blobs)
                blobs.append(item.result)
            order.append(places[id(item)])
        return order, blobs

    def distinct(self) -> int:
        """Return how many different items it has, as far as it can be told without their keys."""
        settled = sum(len(piece) - piece.repeats for piece in self.settled)
        return settled + len({id(item) for item in self.items if not item.is_repeat})

    def account(self) -> dict[str, object]:
        """Return what the event of its end says of its items and of what it took."""
        # What a merged run computed for it was not read again.
        items = self.item_count if self.staged is None else self.staged.items
        fields: dict[str, object] = {"items": items, "worked_s": round(self.seconds, 6)}
        if self.duplicates:
            fields["duplicates"] = self.duplicates
        if self.reused:
            fields["reused"] = self.reused
        return {**fields, **self.cost.fields()}

    def origin(self) -> dict[str, object]:
        """Return how its outputs came about."""
        staged = self.staged
        fields: dict[str, object] = {
            "request": self.request,
            "model": self.model,
            "inputs": self.input_hashes,
            "outputs": self.output_hashes,
            "items": self.item_count if staged is None else staged.items,
            "worked_s": round(self.seconds, 6),
            "cost": self.cost.fields(),
        }
        if staged is None:
            found = self.came or Came(self.request.job_id)
            found.add(self.items)
            return {**fields, **found.fields()}
        model = str(staged.keys[0][1]) if staged.keys else ""  # type: ignore[index]
        return {**fields, "model": model, **came_merged(staged.items, staged.batch_id, staged.keys)}

    @property
    def home(self) -> str:
        """The node that its outputs are to be written on; empty: any.

        Where a merged run has staged them, else where the largest part was computed for it.
        Results that were there before it asked do not count: many jobs may have used them.
        """
        if self.staged is not None:
            return self.staged.node
        return max(self.cost_on, key=self.cost_on.__getitem__) if self.cost_on else ""

    @property
    def has_begun(self) -> bool:
        """Whether it is to be finished even if nothing new is started."""
        is_ending = self.phase in (JobPhase.WRITING, JobPhase.PUBLISHING)
        return is_ending or self.is_handed_out or self.request.goes_on or self.wants_results

    @property
    def is_computed(self) -> bool:
        """Whether every item has its result."""
        return self.all_read and self.missing == 0


def has_room(job: JobState, items: int) -> bool:
    """Tell whether so many more items of a job may become work.

    Items that are done stay objects behind one that is not: of these there are not many, unless
    workers would have nothing to do.
    """
    if not job.missing:
        return True
    has_few = not job.has_many_objects or job.missing < packed.MAX_OPEN // FEW_OPEN
    return has_few and job.missing + items <= packed.MAX_OPEN


def explain(job: JobState, error: WorkerError, where: str = "") -> str:
    """Say a worker's error as the user should read it: rule, wildcards, item, cause."""
    head = ": ".join(part for part in (job.request.title, where) if part)
    if error.is_plain:
        return f"{head}: {error.message}"
    text = f"{head}: {error.type}: {error.message}"
    return f"{text}\n{error.traceback.rstrip()}" if error.traceback else text
