"""Do the scheduler's tables agree with each other? Checked after each event in simulated runs.

A worker stands in the table of all workers, in its model's and in the allocator's; an item in
its jobs, in the ledger and in one queue or batch; a job in the job table and in a queue of its
tool. Each table is changed on its own, so that a part which forgets one of them goes unnoticed
until much later. Here every such pair is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from snakemake_executor_gpupool.devices.allocation.requests import Phase as HolderPhase
from snakemake_executor_gpupool.scheduling.files.worker_pool import FileWorkerPool
from snakemake_executor_gpupool.scheduling.job_state import JobPhase
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.testing import item_invariants
from snakemake_executor_gpupool.testing.item_invariants import jobs_of, models_of

#: What the allocator may have noted of a worker that it has granted devices to, by stage.
PHASES = {
    Stage.CLAIMING: {HolderPhase.BUSY},
    Stage.STARTING: {HolderPhase.BUSY},
    Stage.LOADING: {HolderPhase.BUSY},
    Stage.CHECKING: {HolderPhase.BUSY},
    Stage.READY: {HolderPhase.BUSY, HolderPhase.IDLE},
    Stage.MOVING: {HolderPhase.BUSY, HolderPhase.LEAVING},
    Stage.AWAY: {HolderPhase.OFFLOADED},
    Stage.STOPPING: {HolderPhase.LEAVING, HolderPhase.OFFLOADED},
}
#: Jobs that have a file process, or wait for one.
AT_FILES = (JobPhase.READING, JobPhase.WRITING, JobPhase.PUBLISHING)


class TablesDisagree(AssertionError):
    """Two tables of the scheduler say different things; the message says which and what."""


def check(scheduler: Scheduler) -> None:
    """Compare the tables of a scheduler between two events.

    Raises
    ------
    TablesDisagree
        The first disagreement that is found.
    """
    for compare in (*COMPARISONS, *item_invariants.COMPARISONS):
        for sentence in compare(scheduler):
            raise TablesDisagree(sentence)


def size(scheduler: Scheduler) -> int:
    """Return about how many entries a check looks at."""
    return len(scheduler.ledger._work_items) + len(scheduler.jobs) + len(_workers(scheduler))


def _workers(scheduler: Scheduler) -> dict[str, ModelWorker]:
    return scheduler.dispatch.lifecycle.workers


# -- events ------------------------------------------------------------------------
def _events(scheduler: Scheduler) -> Iterator[str]:
    count = len(scheduler._events)
    if count:
        yield f"{count} domain events were left when the external event was over"


# -- workers -----------------------------------------------------------------------
def _worker_tables(scheduler: Scheduler) -> Iterator[str]:
    workers = _workers(scheduler)
    for worker_id, worker in workers.items():
        if worker.worker_id != worker_id:
            yield f"{worker.worker_id} is listed as {worker_id}"
        known = worker.model.workers.get(worker_id) is worker
        if not known:
            yield f"{worker_id} is a worker, and its model {worker.model.name} lacks it"
    for key, model in scheduler.dispatch.models.items():
        if model.key != key:
            yield f"model {model.name} is listed under the key of another"
        for worker_id in model.workers:
            if worker_id not in workers:
                yield f"{worker_id} of model {model.name} is no worker"


def _devices_of_workers(scheduler: Scheduler) -> Iterator[str]:
    snapshot = scheduler._allocator.snapshot()
    waiting = set(snapshot.waiting)
    for worker_id, worker in _workers(scheduler).items():
        holder = snapshot.holders.get(worker_id)
        if worker.stage is Stage.ASKING:
            if worker_id not in waiting:
                yield f"{worker_id} asks for devices, and is not in line"
            is_apart = holder is None or holder[1] is HolderPhase.OFFLOADED
            if not is_apart:
                yield f"{worker_id} asks for devices, and holds some"
            continue
        if worker_id in waiting:
            yield f"{worker_id} is {worker.stage.value}, and in line"
        if holder is None:
            yield f"{worker_id} is {worker.stage.value}, and holds no devices"
            continue
        yield from _grant(scheduler, worker, *holder[1:])


def _grant(
    scheduler: Scheduler, worker: ModelWorker, phase: HolderPhase, names: tuple[str, ...]
) -> Iterator[str]:
    expected = PHASES.get(worker.stage, set(HolderPhase))
    if worker.is_ahead and worker.stage in (Stage.STARTING, Stage.LOADING):
        expected = {HolderPhase.IDLE}
    if phase not in expected:
        yield f"{worker.worker_id} is {worker.stage.value}, its devices {phase.name}"
    if worker.stage is Stage.CLAIMING:
        if worker.worker_id not in scheduler.dispatch.lifecycle._claiming:
            yield f"{worker.worker_id} is claiming, and no answer is awaited"
    elif phase is not HolderPhase.OFFLOADED:
        own = tuple(device.name for device in worker.devices)
        if names != own:
            yield f"{worker.worker_id} is on {own}, the allocator says {names}"
    yield from _rest(worker, phase)


def _rest(worker: ModelWorker, phase: HolderPhase) -> Iterator[str]:
    if worker.stage is Stage.READY:
        rests = worker.idle_since_s is not None
        said = "idle" if rests else "at work"
        agree = rests == (phase is HolderPhase.IDLE)
        if not agree:
            yield f"{worker.worker_id} is {said}, its devices {phase.name}"


def _holders(scheduler: Scheduler) -> Iterator[str]:
    snapshot = scheduler._allocator.snapshot()
    running = scheduler.leases._running
    claiming = scheduler.dispatch.lifecycle._claiming.keys() & scheduler.leases._requests.keys()
    for holder_id in snapshot.holders:
        if holder_id not in _workers(scheduler) and holder_id not in running | claiming:
            yield f"{holder_id} holds devices, and is neither a worker nor a leased job"
    for request_id in snapshot.waiting:
        known = request_id in _workers(scheduler) or request_id in scheduler.leases._requests
        if not known:
            yield f"{request_id} waits for devices, and is neither a worker nor a lease"


def _batches(scheduler: Scheduler) -> Iterator[str]:
    numbers: Counter[int] = Counter()
    for worker_id, worker in _workers(scheduler).items():
        numbers.update(batch.batch_id for batch in worker.in_flight)
        may_compute = worker.stage in (Stage.READY, Stage.STOPPING) or not worker.in_flight
        if not may_compute:
            yield f"{worker_id} is {worker.stage.value}, and has a batch in flight"
        rests = worker.idle_since_s is not None and worker.stage is Stage.READY
        if rests and worker.in_flight:
            yield f"{worker_id} rests with a batch in flight"
        for batch in worker.in_flight:
            groups = {item.group for item in batch.items}
            single = worker.model.is_chain or len(groups) == 1
            if not single:
                yield f"batch {batch.batch_id} mixes groups {sorted(groups)}"
    if max(numbers.values(), default=1) != 1:
        yield f"a batch is in flight twice: {numbers}"


def _queues(scheduler: Scheduler) -> Iterator[str]:
    for model in models_of(scheduler):
        waiting = sum(1 for _ in model.queue)
        if waiting != len(model.queue):
            yield f"{waiting} items are in the queue of {model.name}, it counts {len(model.queue)}"


# -- jobs and files ----------------------------------------------------------------
def _jobs(scheduler: Scheduler) -> Iterator[str]:
    """Each job stands in one queue of files, or in none if it is elsewhere."""
    standing = Counter(job_id for tool in _tools(scheduler) for job_id in _at_files(tool))
    held = {job.request.job_id for job in scheduler.merges.held_jobs()}
    for job in jobs_of(scheduler):
        number, title, phase = job.request.job_id, job.request.title, job.phase
        count = standing[number] + (number in held)
        if phase in AT_FILES or phase is JobPhase.WAITING:
            if count != 1:
                yield f"{title} is {phase.value}, and in {count} queues"
        elif count:
            yield f"{title} is {phase.value}, and in a queue of files"
        if phase is JobPhase.COMPUTING and job.is_computed:
            yield f"{title} is computed, and nothing follows"


def _tools(scheduler: Scheduler) -> Iterable[FileWorkerPool]:
    return scheduler.files._tools.values()


def _at_files(tool: FileWorkerPool) -> Iterator[int]:
    queues: list[Any] = [tool.reads, tool.writes, *tool.homes.values()]
    queues += [worker.in_flight for worker in tool.workers.values()]
    for queue in queues:
        yield from queue
    yield from (job_id for _, job_id in tool.resting)


def _file_workers(scheduler: Scheduler) -> Iterator[str]:
    tool_of = scheduler.files._tool_of
    for worker_id, tool in tool_of.items():
        if worker_id not in tool.workers:
            yield f"{worker_id} is no process of {tool.name}"
        both = worker_id in _workers(scheduler)
        if both:
            yield f"{worker_id} is both a model's worker and a file process"
    for tool in _tools(scheduler):
        for worker_id, worker in tool.workers.items():
            known = tool_of.get(worker_id) is tool and worker in tool.on(worker.node)
            if not known:
                yield f"{worker_id} of {tool.name} is not listed, or not on its node"
            count, sizes = len(worker.in_flight), len(worker._sizes)
            if count != sizes:
                yield f"{worker_id} has {count} jobs in flight and {sizes} sizes"
            if count and not worker.ready:
                yield f"{worker_id} is starting, and has a job in flight"
        in_flight = {n for worker in tool.workers.values() for n in worker.in_flight}
        strange = tool.reading - in_flight
        if strange:
            yield f"jobs {sorted(strange)} of {tool.name} are read by no process"


# -- leases ------------------------------------------------------------------------
def _leases(scheduler: Scheduler) -> Iterator[str]:
    leases, snapshot = scheduler.leases, scheduler._allocator.snapshot()
    unknown = leases._running - leases._requests.keys()
    if unknown:
        yield f"{sorted(unknown)} run on leased devices, and nobody asked for them"
    for request_id in leases._requests:
        holds = request_id in snapshot.holders
        if request_id in leases._running:
            if not holds:
                yield f"{request_id} runs on leased devices, and holds none"
        elif holds:
            if request_id not in scheduler.dispatch.lifecycle._claiming:
                yield f"{request_id} holds devices, and was not told"
        elif request_id not in snapshot.waiting:
            yield f"{request_id} waits for devices, and is not in line"


# -- what is to come ---------------------------------------------------------------
def _outlook(scheduler: Scheduler) -> Iterator[str]:
    table = scheduler.outlook._table
    counted = (table._wave_of, table._unread, table._computed, table._unforeseen)
    ended = {job_id for each in counted for job_id in each} - set(scheduler.jobs.ids())
    if ended:
        yield f"jobs {sorted(ended)} have ended, and are counted as jobs of a wave"
    in_flight = Counter(table._wave_of.values())
    for name, count in table.counts.items():
        if count.in_flight != in_flight[name]:
            yield f"{in_flight[name]} jobs of wave {name} are in flight, {count.in_flight} counted"


#: Each yields a sentence for each disagreement that it finds.
COMPARISONS = (
    _events,
    _worker_tables,
    _devices_of_workers,
    _holders,
    _batches,
    _queues,
    _jobs,
    _file_workers,
    _leases,
    _outlook,
)
