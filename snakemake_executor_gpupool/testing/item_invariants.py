"""Is each item in one place, and counted as what it is? The half of :mod:`.invariants` on items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.job_state import JobState
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.scheduling.settled import SettledItems, split
from snakemake_executor_gpupool.wire.frames import blob_size


def models_of(scheduler: Scheduler) -> Iterable[Model]:
    """Return all models."""
    return scheduler.dispatch.models.values()


def jobs_of(scheduler: Scheduler) -> list[JobState]:
    """Return all jobs in flight."""
    return [scheduler.jobs[job_id] for job_id in scheduler.jobs.ids()]


def _standing(model: Model) -> Iterator[tuple[WorkItem, str]]:
    """Yield every item that a model has still to compute, and where it stands."""
    for item in model.queue:
        yield item, f"the queue of {model.name}"
    for name, items in (("suspects", model.suspects), ("oversized", model.oversized)):
        for item in items:
            yield item, f"the {name} of {model.name}"
    for _, item in model.resting:
        yield item, f"what rests at {model.name}"
    for worker in model.workers.values():
        for batch in worker.in_flight:
            for item in batch.items:
                yield item, f"batch {batch.batch_id} of {worker.worker_id}"


def _items_are_in_one_place(scheduler: Scheduler) -> Iterator[str]:
    places: dict[int, str] = {}
    for model in models_of(scheduler):
        for item, place in _standing(model):
            other = places.setdefault(id(item), place)
            if other is not place:
                yield f"item {item.name} is both in {other} and in {place}"
            if item.is_merged:
                yield f"item {item.name} is merged, and in {place}"
    for job in jobs_of(scheduler):
        for item in job.items:
            is_somewhere = item.is_done or item.is_merged or id(item) in places
            if not is_somewhere:
                yield f"{job.request.title} waits for {item.name}, which is nowhere"


def _waiters(scheduler: Scheduler) -> Iterator[str]:
    """Whoever waits for an item exists, and each job knows how many results it lacks."""
    items = {id(u): u for model in models_of(scheduler) for u, _ in _standing(model)}
    items |= {id(item): item for job in jobs_of(scheduler) for item in job.items}
    places_of = {job.request.job_id: Counter(map(id, job.items)) for job in jobs_of(scheduler)}
    for item in items.values():
        if not item.waiters or isinstance(item, MergedRequest):  # whose items are its job's
            continue
        if item.is_done:
            yield f"{item.name} is done, and waited for"
        for job_id in set(item.waiters):
            count = item.waiters.count(job_id)
            job = scheduler.jobs.get(job_id)
            if job is None:
                yield f"job {job_id} waits for {item.name}, and has ended"
                continue
            places = places_of[job_id][id(item)]
            if places != count:
                yield f"job {job_id} has {places} places of {item.name}, and {count} wait"
    for job in jobs_of(scheduler):
        missing = sum(item.result is None for item in job.items)
        if job.missing != missing:
            yield f"{job.request.title} lacks {missing} results, and counts {job.missing}"
        own = {id(item): item for item in job.items}.values()
        waiting = sum(item.waiters.count(job.request.job_id) for item in own)
        if waiting != missing:
            yield f"{job.request.title} lacks {missing}, {waiting} are awaited"


def _ledger(scheduler: Scheduler) -> Iterator[str]:
    ledger = scheduler.ledger
    held: Counter[int] = Counter()
    lent = scheduler.jobs._lent.values()
    ready = [job.staged for job in jobs_of(scheduler) if job.staged is not None]
    for staged in (*ready, *scheduler.merges._staged._staged.values()):
        held.update(map(id, staged.held))
    for items in (*(job.items for job in jobs_of(scheduler)), *lent):
        held.update(map(id, items))
    for key, item in ledger._work_items.items():
        if item.key != key:
            yield f"the ledger has {item.name} under the key of another item"
        if item.holders != held[id(item)]:
            yield f"{item.name} has {held[id(item)]} holders, and counts {item.holders}"
    kept_alone = [each for each in ledger._unheld if isinstance(each, WorkItem)]
    for item in kept_alone:
        kept = ledger._work_items.get(item.key) is item and item.result is not None
        if not kept:
            yield f"{item.name} is kept without a result, or unknown"
    if ledger.computed > ledger.unique:
        yield f"{ledger.computed} items are computed, of {ledger.unique} distinct ones"
    size_bytes = sum(blob_size(item.result) for item in kept_alone)
    size_bytes += sum(piece.size_bytes for piece in _kept_pieces(scheduler))
    if size_bytes != ledger._unheld.size_bytes:
        yield f"{size_bytes} B of results are kept, and {ledger._unheld.size_bytes} counted"


def _kept_pieces(scheduler: Scheduler) -> list[SettledItems]:
    return [each for each in scheduler.ledger._unheld if isinstance(each, SettledItems)]


def _settled(scheduler: Scheduler) -> Iterator[str]:
    """What is settled is in one piece, of a job in flight or kept, and nowhere else."""
    ledger = scheduler.ledger
    held = [piece for job in jobs_of(scheduler) for piece in job.settled]
    kept = _kept_pieces(scheduler)
    for piece, is_held in (*((each, True) for each in held), *((each, False) for each in kept)):
        if piece.is_held != is_held:
            yield f"a piece is {'held' if is_held else 'kept'}, and says otherwise"
    rows = [(piece.head, rest) for piece in (*held, *kept) for rest in piece.rests()]
    known = [key for key, _ in ledger._settled.items()]
    if sorted(map(str, rows)) != sorted(map(str, known)) or len(known) != len(ledger._settled):
        yield f"{len(rows)} rows are settled, the table has {len(known)}"
    for key in map(split, ledger._work_items):
        if ledger._settled.find(key) is not None:
            yield f"{key} is settled, and an item of its own"
    for job in jobs_of(scheduler):
        is_stuck = bool(job.backlog) and not job.missing
        if is_stuck or (job.backlog and job.all_read):
            yield f"{job.request.title} has a backlog, and waits for nothing"
        if job.missing > max(packed.MAX_OPEN, packed.PIECE_ITEMS) and not job.is_brief:
            yield f"{job.request.title} has {job.missing} items open"


# -- merged runs -------------------------------------------------------------------
def _parts_of_merges(scheduler: Scheduler, standing: Iterable[WorkItem]) -> Iterator[str]:
    """Each item counts the merged runs that have still to compute it."""
    parts: dict[int, WorkItem] = {}
    runs_of: Counter[int] = Counter()
    for merged in standing:
        if isinstance(merged, MergedRequest) and not merged.is_over and not merged.stages_done:
            runs_of.update(map(id, merged.parts))
            parts |= {id(part): part for part in merged.parts}
    parts |= {id(item): item for job in jobs_of(scheduler) for item in job.items}
    for item in (*parts.values(), *scheduler.ledger._work_items.values()):
        if (item.merged_runs or id(item) in runs_of) and item.merged_runs != runs_of[id(item)]:
            yield f"{runs_of[id(item)]} merged runs have {item.name}, it counts {item.merged_runs}"


def _merges(scheduler: Scheduler) -> Iterator[str]:
    merges = scheduler.merges
    chains = (model for model in models_of(scheduler) if model.is_chain)
    standing = {id(item): item for model in chains for item, _ in _standing(model)}
    yield from _parts_of_merges(scheduler, standing.values())
    for identity, merged in merges._expected.items():
        awaited = not merged.is_over and id(merged) in standing
        if not awaited:
            yield f"job {identity} is expected of a merged run that is over"
    for identity, job in merges._held.items():
        known = identity in merges._expected and scheduler.jobs.get(job.request.job_id) is job
        if not known:
            yield f"{job.request.title} is held back for a merged run that is over"
    staged = merges._staged
    size_bytes = sum(outputs.size_bytes for outputs in staged._staged.values())
    if size_bytes != staged.size_bytes:
        yield f"{size_bytes} B are staged, and {staged.size_bytes} counted"


#: Each yields a sentence for each disagreement that it finds.
COMPARISONS = (
    _items_are_in_one_place,
    _waiters,
    _ledger,
    _settled,
    _merges,
)
