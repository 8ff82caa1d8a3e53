"""How many devices the pool could use, for hosts that can add some. Pure."""

from __future__ import annotations

from collections import Counter

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator, Phase
from snakemake_executor_gpupool.devices.card_wish import CardWish
from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.scheduling.models.dispatch import Dispatch
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.model_worker import Stage

#: More workers than this are never asked for at once.
MAX_WORKERS = 1024
_AT_WORK = (Stage.CLAIMING, Stage.STARTING, Stage.LOADING, Stage.CHECKING, Stage.MOVING)


def demand_of(dispatch: Dispatch, allocator: Allocator, now_s: float) -> Demand:
    """Return how many devices the waiting work would pay for, and which machines are busy."""
    snapshot = allocator.snapshot()
    busy = {
        holder: names
        for holder, (_, phase, names) in snapshot.holders.items()
        if phase is Phase.BUSY
    }
    cards: Counter[CardWish] = Counter()
    for model in dispatch.models.values():
        cards[model.spec.card] += _devices_for(model, now_s)
    for request_id, card in zip(snapshot.waiting, snapshot.wanted, strict=True):
        cards[card] += not dispatch.owns(request_id)
    leased = [_host(name) for holder in busy if not dispatch.owns(holder) for name in busy[holder]]
    hosts = {_host(name) for names in busy.values() for name in names}
    wanted = tuple((card, count) for card, count in cards.items() if count)
    devices = sum(cards.values()) + len(leased)
    return Demand(devices, frozenset(hosts - {""}), wanted, tuple(leased))


def _host(name: str) -> str:
    return name.rpartition("/")[0]


def _devices_for(model: Model, now_s: float) -> int:
    at_work = sum(bool(w.in_flight) or w.stage in _AT_WORK for w in model.workers.values())
    most = min(model.waiting + at_work, MAX_WORKERS)
    return model.spec.count * max(model.workers_wanted(most, most, now_s), at_work)
