"""One allocation round: one pass over all waiting requests. Pure.

Requests are looked at in order of priority, then arrival. Each is either granted what it needs, or
it claims the devices that it is going to use, and nobody behind it gets those. So a request for
several devices collects them one by one and is never starved by a stream of small ones, and
nobody is overtaken on a device that would have served them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from snakemake_executor_gpupool.devices.allocation.occupancy import Occupancy
from snakemake_executor_gpupool.devices.allocation.policy import Placement, find_placement
from snakemake_executor_gpupool.devices.allocation.queue import WaitingRequest
from snakemake_executor_gpupool.devices.allocation.requests import (
    LEASE,
    DeviceRequest,
    Holder,
    Phase,
)
from snakemake_executor_gpupool.devices.device import Device, fit_one_process


@dataclass(frozen=True)
class Grant:
    """A waiting request that gets these devices now."""

    waiting: WaitingRequest
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Removal:
    """An idle holder that has to go, for the sake of this request."""

    holder: Holder
    waiting: WaitingRequest


Move = Grant | Removal


@dataclass(frozen=True)
class Patience:
    """The time of a round, and how long a request waits before workers with work left make room."""

    now_s: float
    yield_after_s: float

    def is_over(self, waiting: WaitingRequest) -> bool:
        """Tell whether a request has waited that long."""
        return self.now_s - waiting.since_s >= self.yield_after_s


def plan_round(
    occupancy: Occupancy,
    queue: Iterable[WaitingRequest],
    patience: Patience,
    next_serial: int,
) -> list[Move]:
    """Decide what happens now.

    Parameters
    ----------
    occupancy
        Who is on which device. Changed by what is decided.
    queue
        The waiting requests, in order.
    patience
        The time, and how long one waits.
    next_serial
        The serial number of the first grant of this round.
    """
    moves: list[Move] = []
    for waiting in queue:
        if not occupancy.has_open_gpus:
            break  # nothing is left for those behind, however many they are
        if _waits_for_others(waiting.request, occupancy):
            continue
        placement = find_placement(waiting.request, occupancy)
        if placement is None:
            occupancy.reserve(device.name for device in occupancy.suited(waiting.request))
        elif placement.in_the_way:
            moves += _claim(occupancy, waiting, placement, patience)
        else:
            moves.append(_grant(occupancy, waiting, placement.devices, next_serial + len(moves)))
    return moves


def _waits_for_others(request: DeviceRequest, occupancy: Occupancy) -> bool:
    """Tell whether other processes hold too much for us to serve it: then it claims nothing."""
    ours = (device for device in occupancy.suited(request) if not occupancy.is_foreign(device))
    return not fit_one_process(ours, request.spec.count)


def _grant(
    occupancy: Occupancy, waiting: WaitingRequest, devices: tuple[Device, ...], serial: int
) -> Grant:
    names = tuple(device.name for device in devices)
    occupancy.put(Holder(waiting.request, names, serial=serial))
    for name in names:
        occupancy.granted(name, serial)
    return Grant(waiting, devices)


def _claim(
    occupancy: Occupancy, waiting: WaitingRequest, placement: Placement, patience: Patience
) -> list[Move]:
    """Claim the placement, and evict idle holders in the way where that leads anywhere."""
    removals = [
        Removal(holder, waiting)
        for holder in placement.in_the_way
        if holder.phase is Phase.IDLE and _must_go(holder, waiting, placement, occupancy, patience)
    ]
    for removal in removals:
        occupancy.leave(removal.holder)
    occupancy.claim(waiting.request, placement.devices)
    return list(removals)


def _must_go(
    holder: Holder,
    waiting: WaitingRequest,
    placement: Placement,
    occupancy: Occupancy,
    patience: Patience,
) -> bool:
    """Tell whether to evict an idle holder now.

    If all who are in the way can go now: yes. If some still compute, an early eviction pays only
    for a request that presses (else two workers that are never idle at the same moment could keep
    it waiting forever), and never while a lease is in the way, which may last for hours.
    """
    still_busy = [other for other in placement.in_the_way if other.phase is Phase.BUSY]
    if not still_busy:
        return True
    leased = any(other.request.kind == LEASE for other in still_busy)
    return not leased and presses(waiting, holder, occupancy, patience)


def presses(
    waiting: WaitingRequest, holder: Holder, occupancy: Occupancy, patience: Patience
) -> bool:
    """Tell whether a worker with work left ought to make room for a request.

    For a further worker of the same model it need not: the devices would do no more work, but
    load once more.
    """
    if waiting.request.priority > holder.request.priority:
        return True
    return patience.is_over(waiting) and not occupancy.is_served(waiting.request)


def may_press(waiting: WaitingRequest, holder: Holder, patience: Patience, has_paid: bool) -> bool:
    """Tell whether a request, or one that has waited less, may press a holder to make room."""
    is_first = waiting.request.priority > holder.request.priority
    return is_first or (has_paid and patience.is_over(waiting))


def should_yield(
    holder: Holder,
    queue: Sequence[WaitingRequest],
    occupancy_now: Callable[[], Occupancy],
    patience: Patience,
    *,
    has_paid: bool,
) -> bool:
    """Tell whether a busy worker should stop here for one of the waiting requests.

    Parameters
    ----------
    holder
        The worker.
    queue
        The waiting requests, in order.
    occupancy_now
        Returns who is on which device, for a round of its own.
    patience
        The time, and how long one waits.
    has_paid
        The worker has computed long enough to be worth its load. Before that it stops only for a
        request of higher priority.
    """

    def presses_it(waiting: WaitingRequest, occupancy: Occupancy) -> bool:
        is_first = waiting.request.priority > holder.request.priority
        return (is_first or has_paid) and presses(waiting, holder, occupancy, patience)

    occupancy = occupancy_now()
    if not any(presses_it(waiting, occupancy) for waiting in queue):
        return False
    # Would the worker be evicted, and for such a request, if it were idle now?
    occupancy.put(replace(holder, phase=Phase.IDLE, last_used_s=patience.now_s))
    for move in plan_round(occupancy, queue, patience, next_serial=0):
        if isinstance(move, Removal) and move.holder.holder_id == holder.holder_id:
            return presses_it(move.waiting, occupancy_now())
    return False
