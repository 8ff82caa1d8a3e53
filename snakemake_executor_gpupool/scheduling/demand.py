"""How many devices the pool could use, for hosts that can add some. Pure."""

from __future__ import annotations

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator, Phase
from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Model, Stage

#: More workers than this are never asked for at once.
MAX_WORKERS = 1024
_AT_WORK = (Stage.CLAIMING, Stage.STARTING, Stage.LOADING, Stage.MOVING)


def demand_of(dispatch: Dispatch, allocator: Allocator, now_s: float) -> Demand:
    """Return how many devices the work at hand would pay for, and which machines are busy."""
    snapshot = allocator.snapshot()
    busy = {
        holder: names
        for holder, (_, phase, names) in snapshot.holders.items()
        if phase is Phase.BUSY
    }
    models = sum(_devices_for(model, now_s) for model in dispatch.models.values())
    leased = sum(len(names) for holder, names in busy.items() if not dispatch.owns(holder))
    waiting = sum(not dispatch.owns(request_id) for request_id in snapshot.waiting)
    hosts = {name.rpartition("/")[0] for names in busy.values() for name in names}
    return Demand(models + leased + waiting, frozenset(hosts - {""}))


def _devices_for(model: Model, now_s: float) -> int:
    at_work = sum(bool(w.in_flight) or w.stage in _AT_WORK for w in model.workers.values())
    most = min(model.waiting + at_work, MAX_WORKERS)
    return model.spec.count * max(model.workers_wanted(most, most, now_s), at_work)
