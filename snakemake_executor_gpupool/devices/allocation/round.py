"""One turn of decisions over the whole line of waiting requests. Pure.

Those who wait are looked at in order of priority, then arrival. Each is either
granted what it needs, or it claims what it is going to use, and nobody further
back gets that. So a request for several devices collects them one by one and
is never starved by a stream of small ones, and nobody is overtaken on a device
that would have served them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.occupancy import (
    LEASE,
    DeviceRequest,
    Holder,
    Occupancy,
    Phase,
)
from snakemake_executor_gpupool.devices.allocation.policy import Placement, find_placement
from snakemake_executor_gpupool.devices.device import Device, fit_one_process


@dataclass(frozen=True)
class Waiter:
    """A request in line."""

    request: DeviceRequest
    since_s: float
    serial: int
    returning: bool = False
    """An offloaded worker that wants devices again."""

    @property
    def place(self) -> tuple[int, int]:
        """Sort key: priority, then arrival."""
        return -self.request.priority, self.serial


class Line:
    """Who waits, in the order in which they are served."""

    def __init__(self) -> None:
        self._sorted: list[Waiter] = []
        self._by_id: dict[str, Waiter] = {}

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    def get(self, request_id: str) -> Waiter | None:
        """Return who waits under that id."""
        return self._by_id.get(request_id)

    @property
    def last(self) -> Waiter | None:
        """Who is served last."""
        return self._sorted[-1] if self._sorted else None

    def join(self, waiter: Waiter) -> None:
        """Let somebody wait at the place that priority and arrival give."""
        self._by_id[waiter.request.request_id] = waiter
        bisect.insort(self._sorted, waiter, key=lambda other: other.place)

    def leave(self, waiter: Waiter) -> None:
        """Let somebody wait no longer."""
        del self._by_id[waiter.request.request_id]
        del self._sorted[bisect.bisect_left(self._sorted, waiter.place, key=lambda w: w.place)]


@dataclass(frozen=True)
class Grant:
    """A waiter that gets these devices now."""

    waiter: Waiter
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Removal:
    """An idle holder that has to go, for this waiter."""

    holder: Holder
    waiter: Waiter


Move = Grant | Removal


def plan_round(
    occupancy: Occupancy,
    line: Iterable[Waiter],
    now_s: float,
    yield_after_s: float,
    next_serial: int,
) -> list[Move]:
    """Decide what happens now.

    Parameters
    ----------
    occupancy
        Who holds what; written on.
    line
        Who waits, in order.
    now_s, yield_after_s
        The time, and how long one waits before others have to make room.
    next_serial
        The serial number of the first grant of this turn.
    """
    moves: list[Move] = []
    for waiter in line:
        if not occupancy.has_open_gpus:
            break  # nothing is left for those further back, however many they are
        if _waits_for_others(waiter.request, occupancy):
            continue
        placement = find_placement(waiter.request, occupancy)
        if placement is None:
            occupancy.reserve(device.name for device in occupancy.suited(waiter.request))
        elif placement.in_the_way:
            moves += _clear(occupancy, waiter, placement, now_s, yield_after_s)
        else:
            moves.append(_grant(occupancy, waiter, placement.devices, next_serial + len(moves)))
    return moves


def _waits_for_others(request: DeviceRequest, occupancy: Occupancy) -> bool:
    """Whether other processes hold so much that our own line cannot serve it: no claim then."""
    ours = (device for device in occupancy.suited(request) if not occupancy.is_foreign(device))
    return not fit_one_process(ours, request.spec.count)


def _grant(occupancy: Occupancy, waiter: Waiter, devices: tuple[Device, ...], serial: int) -> Grant:
    names = tuple(device.name for device in devices)
    occupancy.put(Holder(waiter.request, names, serial=serial))
    for name in names:
        occupancy.granted(name, serial)
    return Grant(waiter, devices)


def _clear(
    occupancy: Occupancy, waiter: Waiter, placement: Placement, now_s: float, yield_after_s: float
) -> list[Move]:
    """Claim the placement, and evict who is in the way if that leads anywhere."""
    removals = [
        Removal(holder, waiter)
        for holder in placement.in_the_way
        if holder.phase is Phase.IDLE
        and _must_go(holder, waiter, placement, occupancy, now_s, yield_after_s)
    ]
    for removal in removals:
        occupancy.leave(removal.holder)
    occupancy.claim(waiter.request, placement.devices)
    return list(removals)


def _must_go(
    holder: Holder,
    waiter: Waiter,
    placement: Placement,
    occupancy: Occupancy,
    now_s: float,
    yield_after_s: float,
) -> bool:
    """Whether to evict an idle holder already.

    If all who are in the way can go now: yes. If some are still computing, an
    early eviction only pays for a waiter that presses (else two workers that
    are never idle at the same moment could keep it waiting forever), and never
    while a lease is in the way, which may last for hours.
    """
    still_busy = [other for other in placement.in_the_way if other.phase is Phase.BUSY]
    if not still_busy:
        return True
    leased = any(other.request.kind == LEASE for other in still_busy)
    return not leased and presses(waiter, holder, occupancy, now_s, yield_after_s)


def presses(
    waiter: Waiter, holder: Holder, occupancy: Occupancy, now_s: float, yield_after_s: float
) -> bool:
    """Whether a worker with work left ought to make room for the waiter.

    For more of the same it need not: the devices would do no more work, but load once more.
    """
    if waiter.request.priority > holder.request.priority:
        return True
    return now_s - waiter.since_s >= yield_after_s and not occupancy.is_served(waiter.request)
