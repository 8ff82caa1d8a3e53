"""One computation per distinct item, in the whole run. Pure bookkeeping.

Every item of every job is a *place*; places whose items are equal share a *work item*,
the one computation. The first place to arrive makes it; later ones wait for
its result or, if it is there already, take it at once. Results outlive their places
within a bound, so that an equal item that comes an hour later costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.scheduling.models.work_queue import Level, Place
from snakemake_executor_gpupool.scheduling.settled import (
    SettledItems,
    SettledTable,
    split,
    split_all,
)
from snakemake_executor_gpupool.scheduling.unheld import Released, UnheldResults
from snakemake_executor_gpupool.wire.described import WorkerError
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile, are_in_memory


@dataclass(eq=False, slots=True)
class WorkItem:
    """One item to be computed once.

    Attributes
    ----------
    key
        Equal for equal items; None if the tool is not deterministic.
    group
        Work items of one group may share a micro-batch: same model, same params.
    level
        (negated priority, 0 if its request is short else 1); one object for all items of a frame.
    arrival
        Its number among all items.
    run
        Where it waits in its model's queue; None: not there.
    waiters
        The job of every place that waits for the result; one object for all that only one job has.
    """

    key: Hashable
    group: str
    cost: float
    tokens: int
    payload: Blob
    name: str
    level: Level
    arrival: int
    waiters: tuple[int, ...] = ()
    run: Place | None = None
    result: Blob | None = None
    error: WorkerError | None = None
    #: How many merged runs are to compute it; no queue has it until the last has come to nothing.
    merged_runs: int = 0
    #: Computed before any job asked for it, by a merged run.
    is_guess: bool = False
    #: Its result is a copy of what a piece of settled items has.
    is_copy: bool = False
    #: Its job has another place of the same item, which is settled.
    is_repeat: bool = False
    #: How many places still hold the result.
    holders: int = 0
    #: Device seconds that it took; 0 if it was not computed, or not yet.
    device_s: float = 0.0
    #: The job that asked for it first, and the batch that computed it; 0: none.
    job_id: int = 0
    batch_id: int = 0
    #: How often it went to a worker.
    tries: int = 0
    #: With what its result was let go of, if no place holds it, or did lately.
    released: Released | None = field(default=None, repr=False)

    @property
    def order(self) -> tuple[int, int, int]:
        """What goes before what: by level, then by arrival."""
        return (*self.level, self.arrival)

    @property
    def is_merged(self) -> bool:
        """Whether a merged run is to compute it, and no queue has it."""
        return self.merged_runs > 0

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self.result is not None or self.error is not None


#: So many results are kept at most, however small they are.
MAX_KEPT = 1_000_000


class ResultLedger:
    """Finds the work item of each item, and keeps recent results.

    Parameters
    ----------
    keep_bytes, keep_most
        How many bytes of results, and how many, to keep for items yet to come.
    """

    def __init__(self, keep_bytes: int = 512 * 1024**2, keep_most: int = MAX_KEPT) -> None:
        self._work_items: dict[Hashable, WorkItem] = {}
        #: What is done of large jobs. A key is here or among the work items, never in both.
        self._settled = SettledTable()
        self._unheld = UnheldResults(keep_bytes, keep_most)
        #: Blobs that nobody needs any longer; the run loop removes their files.
        self.discarded: list[Blob] = []
        self.items = 0
        #: Items that were computed, or are to be.
        self.unique = 0
        #: Those of them that have been.
        self.computed = 0
        #: Distinct items whose result an earlier run had left.
        self.reused = 0
        #: Results that merged runs computed beforehand, and how many of these a job has asked for.
        self.guesses = self.claimed = 0

    def place(self, item: WorkItem, waiter: tuple[int, ...]) -> tuple[WorkItem, bool]:
        """Return the work item that answers an item, and whether it is a new computation.

        Parameters
        ----------
        item
            A work item made for this item, with its result if an earlier run had left that; dropped
            if there is one with its key already.
        waiter
            The number of its job, alone in a tuple.
        """
        (placed,), new = self.place_all([item], waiter)
        return placed, bool(new)

    def place_all(
        self, items: Sequence[WorkItem], waiter: tuple[int, ...]
    ) -> tuple[list[WorkItem], list[WorkItem]]:
        """Do so for several items; return the work item of each, and the new ones of these."""
        self.items += len(items)
        settled = self._settled.find_all([item.key for item in items]) if self._settled else None
        work_items = self._work_items
        placed: list[WorkItem] = []
        new: list[WorkItem] = []
        for number, item in enumerate(items):
            key = item.key
            if settled and number in settled and key not in work_items:
                placed.append(self._copy_of_settled(item, settled[number]))
                continue
            known = item if key is None else work_items.setdefault(key, item)
            known.holders += 1
            placed.append(known)
            if known is not item:
                self._place_again(item, known, waiter)
            elif item.result is None:
                item.waiters = item.waiters + waiter if item.waiters else waiter
                new.append(item)
            else:
                self.reused += 1
        self.unique += len(new)
        return placed, new

    def _place_again(self, item: WorkItem, known: WorkItem, waiter: tuple[int, ...]) -> None:
        """Another place of a known item."""
        self.discard(item.payload, item.result or b"")
        self._asked_for(known)
        if known.result is None:
            known.waiters += waiter
        if item.order < known.order:
            known.level, known.arrival = item.level, item.arrival

    def _copy_of_settled(self, item: WorkItem, piece: SettledItems) -> WorkItem:
        """Return an item like this one with the result that a piece of a large job has."""
        self.discard(item.payload, item.result or b"")
        self._unheld.used(piece)
        row = piece.row(split(item.key)[1])
        return WorkItem(
            *(item.key, item.group, item.cost, item.tokens, b"", item.name),
            *(item.level, item.arrival),
            result=row.result,
            is_copy=True,
            is_repeat=row.is_held,
            holders=1,
            device_s=row.device_s,
            job_id=row.job_id,
            batch_id=row.batch_id,
        )

    def settle(self, items: Sequence[WorkItem], names: Sequence[str]) -> SettledItems | None:
        """Put the results of a job's items into columns; None: they have to stay as they are.

        All are done. The job holds what is returned instead of them, until it hands it back to
        :meth:`release_settled`.
        """
        results = [item.result for item in items if item.result is not None]
        keys = split_all([item.key for item in items])
        if len(results) < len(items) or keys is None or not are_in_memory(results):
            return None
        head, parts = keys
        rests: list[Hashable | None] = []
        work_items = self._work_items
        for item, rest in zip(items, parts, strict=True):
            item.holders -= 1
            key = item.key
            is_last = not item.holders and key is not None and work_items.get(key) is item
            is_last = is_last and item.released is None
            if is_last:
                del work_items[key]
            rests.append(rest if is_last else None)
        numbers = [item.job_id for item in items], [item.batch_id for item in items]
        device_s = [item.device_s for item in items]
        piece = SettledItems(names, results, head, rests, *numbers, device_s)
        self._settled.add(piece)
        return piece

    def release_settled(self, piece: SettledItems) -> None:
        """The job of a piece no longer needs it; it is kept within the bound."""
        piece.is_held = False
        self._unheld.add_piece(piece)
        self._shrink()

    def finish(self, item: WorkItem, result: Blob | None, error: WorkerError | None) -> None:
        """Record how an item ended. A failed one is forgotten: a retry computes it again."""
        if result is not None:
            self.finish_all([item], [result])
            return
        item.error = error
        self._discard(item.payload)
        item.payload = b""
        self._work_items.pop(item.key, None)

    def finish_all(self, items: Sequence[WorkItem], results: Sequence[Blob]) -> None:
        """Record that items were computed."""
        for item, result in zip(items, results, strict=True):
            item.result = result
            if type(item.payload) is not bytes:
                self._discard(item.payload)
            item.payload = b""
        self.computed += len(items)
        self._keep_all([item for item in items if item.holders == 0])

    def offer(self, key: Hashable, result: Blob, batch_id: int = 0) -> None:
        """Keep the result of an item that no job has asked for yet, within the bound."""
        if key in self._work_items or self._settled.find(split(key)) is not None:
            self._discard(result)
            return
        self.guesses += 1
        item = WorkItem(key, "", 0.0, 0, b"", "", (0, 0), 0, result=result, is_guess=True)
        item.batch_id = batch_id
        self._work_items[key] = item
        self._keep_all([item])

    def hold(self, key: Hashable, result: Blob, batch_id: int = 0) -> WorkItem:
        """Keep the result of an item for a job yet to come, until it is released."""
        made = WorkItem(key, "", 0.0, 0, b"", "", (0, 0), 0, result=result, is_guess=True)
        made.batch_id, made.holders = batch_id, 1
        known = self._work_items.get(key)
        if known is not None and known.result is not None:
            self._discard(result)
            known.holders += 1
            return known
        if known is not None or self._settled.find(split(key)) is not None:
            # It is being computed elsewhere, too, or a large job has it.
            made.is_guess, made.is_copy = False, True
            return made
        self.guesses += 1
        self._work_items[key] = made
        return made

    def claim(self, keys: Iterable[Hashable], items: int) -> None:
        """Count the items of a job whose outputs were made beforehand, too."""
        self.items += items
        for item in filter(None, map(self._work_items.get, keys)):
            self._asked_for(item)

    def _asked_for(self, item: WorkItem) -> None:
        if item.is_guess:
            item.is_guess = False
            self.claimed += 1
            self.unique += 1
            self.computed += 1

    def release(self, *items: WorkItem) -> None:
        """One place of each item no longer needs its result."""
        unheld = []
        for item in items:
            item.holders = holders = item.holders - 1
            if holders == 0 and item.result is not None:
                unheld.append(item)
        self._keep_all(unheld)

    def abandon(self, item: WorkItem) -> None:
        """Forget an item that will never be computed, since nobody waits for it."""
        if not item.is_done:
            self._work_items.pop(item.key, None)
            self._discard(item.payload)

    def discard(self, *blobs: Blob) -> None:
        """Let go of items or results that nobody needs."""
        for blob in blobs:
            self._discard(blob)

    def _keep_all(self, items: Sequence[WorkItem]) -> None:
        """Keep results that no place needs, within the bound; a job's are looked at as one."""
        kept = [item for item in items if item.key is not None and not item.is_copy]
        for item in items if len(kept) < len(items) else ():
            if item.key is None or item.is_copy:
                self._discard(item.result)
        self._unheld.add(kept)
        self._shrink()

    def _shrink(self) -> None:
        while (each := self._unheld.take_excess()) is not None:
            self._drop(each)

    def _drop(self, each: WorkItem | SettledItems) -> None:
        """Let go of what is not kept any longer."""
        if isinstance(each, SettledItems):
            self._settled.remove(each)
        elif each.holders == 0:
            del self._work_items[each.key]
            self._discard(each.result)

    def forget_models(self, idents: Collection[str]) -> None:
        """Let go of the results of models of which no more jobs will come."""
        for each in self._unheld.take_all(lambda each: model_of(each) in idents):
            self._drop(each)

    def _discard(self, blob: Blob | None) -> None:
        if isinstance(blob, SpoolFile):
            self.discarded.append(blob)


def model_of(each: WorkItem | SettledItems) -> str:
    """Return the model that a kept result is of, as file processes call it; empty: unknown."""
    if isinstance(each, SettledItems):
        return str(each.head[1]) if isinstance(each.head, tuple) else ""
    return str(each.key[-3]) if isinstance(each.key, tuple) else ""
