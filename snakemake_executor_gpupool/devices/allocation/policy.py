"""Where a request can be placed, and which holders would have to go first. Pure.

Which holders to remove is one rule for every case, packed or not, one device or many:
take holders away in the order in which they are cheapest to lose (already
leaving, idle longest, busy, leased) until the request fits, then put back all
that turn out not to have been in the way, dearest first. What stays away is the
smallest such set: without any one of them, the request would not fit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.allocation.occupancy import Occupancy
from snakemake_executor_gpupool.devices.allocation.requests import DeviceRequest, Holder
from snakemake_executor_gpupool.devices.device import Device, device_key


@dataclass(frozen=True)
class Placement:
    """Where a request can go once ``in_the_way`` is empty."""

    devices: tuple[Device, ...]
    in_the_way: tuple[Holder, ...] = ()


def find_placement(request: DeviceRequest, occupancy: Occupancy) -> Placement | None:
    """Find where a request can be placed, and the fewest holders that would have to go first.

    Returns
    -------
    Placement or None
        None: requests ahead of it have claimed what it could use.
    """
    search = _Search(request, occupancy)
    if not search.enough:
        search.remove_until_enough()
        if not search.enough:
            search.put_back(search.removed)
            return None
        search.put_back_the_needless()
    placement = Placement(search.choose(), tuple(search.removed))
    search.put_back(search.removed)
    return placement


class _Search:
    """One search for a placement; leaves the occupancy as it was."""

    def __init__(self, request: DeviceRequest, occupancy: Occupancy) -> None:
        self.request = request
        self.occupancy = occupancy
        self.suited = {
            device.name: device for device in occupancy.suited(request) if occupancy.is_open(device)
        }
        self.removed: list[Holder] = []
        self._open: dict[str, None] = {}  # a set in order: what is chosen must not hang on hashes
        self._open_in: Counter[str] = Counter()  # by domain
        self._look_at(self.suited)
        self._open_at_first = frozenset(self._open)

    @property
    def enough(self) -> bool:
        """Whether the request fits by now."""
        count = self.request.spec.count
        if len(self._open) < count:
            return False
        return count == 1 or max(self._open_in.values()) >= count

    def _look_at(self, names: Iterable[str]) -> None:
        for name in names:
            device = self.suited.get(name)
            if device is None:
                continue
            admits = self.occupancy.admits(self.request, device)
            if admits and name not in self._open:
                self._open[name] = None
                self._open_in[device.domain] += 1
            elif not admits and name in self._open:
                del self._open[name]
                self._open_in[device.domain] -= 1

    def remove_until_enough(self) -> None:
        """Remove holders, the cheapest loss first, until the request fits."""
        for holder in sorted(self.occupancy.holders(), key=lambda holder: holder.cost_of_loss):
            if self.enough:
                return
            if any(self._is_closed(name) for name in holder.device_names):
                self.occupancy.take(holder)
                self.removed.append(holder)
                self._look_at(holder.device_names)

    def _is_closed(self, name: str) -> bool:
        return name in self.suited and name not in self._open

    def put_back_the_needless(self) -> None:
        """Put back, the dearest loss first, each holder without which the request also fits."""
        needed: list[Holder] = []
        for holder in reversed(self.removed):
            self.occupancy.put(holder)
            self._look_at(holder.device_names)
            if not self.enough:
                self.occupancy.take(holder)
                self._look_at(holder.device_names)
                needed.append(holder)
        self.removed = needed[::-1]

    def put_back(self, holders: Iterable[Holder]) -> None:
        """Leave the occupancy as it was found."""
        for holder in holders:
            self.occupancy.put(holder)

    def choose(self) -> tuple[Device, ...]:
        """Choose among the devices that are open by now, all in one domain."""
        lost = {name: holder for holder in self.removed for name in holder.device_names}
        has_size = self.request.vram_mib is not None

        def worth(device: Device) -> tuple[Any, ...]:
            holders, given_at = self.occupancy.crowd(device)
            return (
                device.name not in self._open_at_first,
                lost[device.name].cost_of_loss if device.name in lost else (),
                holders,
                # The smallest that is large enough: larger ones are left to larger requests.
                (device.memory_mib or 0) if has_size else 0,
                given_at,
                device_key(device),
            )

        count = self.request.spec.count
        candidates = [
            self.suited[name]
            for name in self._open
            if self._open_in[self.suited[name].domain] >= count
        ]
        if count == 1:
            return (min(candidates, key=worth),)
        best: dict[str, list[Device]] = defaultdict(list)
        for device in sorted(candidates, key=worth):
            if len(best[device.domain]) < count:
                best[device.domain].append(device)
        chosen = min(best.values(), key=lambda devices: worth(devices[-1]))
        return tuple(sorted(chosen, key=device_key))
