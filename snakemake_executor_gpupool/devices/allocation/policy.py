"""Where one request can go, and who would have to go first. Pure.

Whom to remove is one rule for every case, packed or not, one device or many:
take tenants away in the order in which they are cheapest to lose (already
leaving, idle longest, busy, leased) until the request fits, then put back all
that turn out not to have been in the way, dearest first. What stays away is the
smallest such set: without any one of them, the request would not fit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.allocation.occupancy import Ask, Occupancy, Tenant
from snakemake_executor_gpupool.devices.device import Device, device_key


@dataclass(frozen=True)
class Room:
    """Where a request can go once ``in_the_way`` is empty."""

    devices: tuple[Device, ...]
    in_the_way: tuple[Tenant, ...] = ()


def find_room(ask: Ask, occupancy: Occupancy) -> Room | None:
    """Find where a request can go, and the fewest tenants that would have to go first.

    Returns
    -------
    Room or None
        None: those ahead in the line have claimed what it could use.
    """
    search = _Search(ask, occupancy)
    if not search.enough:
        search.remove_until_enough()
        if not search.enough:
            search.put_back(search.removed)
            return None
        search.put_back_the_needless()
    room = Room(search.choose(), tuple(search.removed))
    search.put_back(search.removed)
    return room


class _Search:
    """One search for room; leaves the occupancy as it was."""

    def __init__(self, ask: Ask, occupancy: Occupancy) -> None:
        self.ask = ask
        self.occupancy = occupancy
        self.suited = {
            device.name: device for device in occupancy.suited(ask) if occupancy.is_open(device)
        }
        self.removed: list[Tenant] = []
        self._open: set[str] = set()
        self._open_in: Counter[str] = Counter()  # by machine
        self._look_at(self.suited)
        self._open_at_first = frozenset(self._open)

    @property
    def enough(self) -> bool:
        """Whether the request fits now."""
        count = self.ask.spec.count
        if len(self._open) < count:
            return False
        return count == 1 or max(self._open_in.values()) >= count

    def _look_at(self, names: Iterable[str]) -> None:
        for name in names:
            device = self.suited.get(name)
            if device is None:
                continue
            admits = self.occupancy.admits(self.ask, device)
            if admits and name not in self._open:
                self._open.add(name)
                self._open_in[device.host] += 1
            elif not admits and name in self._open:
                self._open.discard(name)
                self._open_in[device.host] -= 1

    def remove_until_enough(self) -> None:
        """Take tenants away, the cheapest loss first, until the request fits."""
        for tenant in sorted(self.occupancy.tenants(), key=lambda tenant: tenant.cost_of_loss):
            if self.enough:
                return
            if any(self._is_closed(name) for name in tenant.device_names):
                self.occupancy.take(tenant)
                self.removed.append(tenant)
                self._look_at(tenant.device_names)

    def _is_closed(self, name: str) -> bool:
        return name in self.suited and name not in self._open

    def put_back_the_needless(self) -> None:
        """Put back, the dearest loss first, whoever need not have gone."""
        needed: list[Tenant] = []
        for tenant in reversed(self.removed):
            self.occupancy.put(tenant)
            self._look_at(tenant.device_names)
            if not self.enough:
                self.occupancy.take(tenant)
                self._look_at(tenant.device_names)
                needed.append(tenant)
        self.removed = needed[::-1]

    def put_back(self, tenants: Iterable[Tenant]) -> None:
        """Leave the occupancy as it was found."""
        for tenant in tenants:
            self.occupancy.put(tenant)

    def choose(self) -> tuple[Device, ...]:
        """Choose among the devices that are open by now, all in one machine."""
        lost = {name: tenant for tenant in self.removed for name in tenant.device_names}

        def worth(device: Device) -> tuple[Any, ...]:
            return (
                device.name not in self._open_at_first,
                lost[device.name].cost_of_loss if device.name in lost else (),
                self.occupancy.crowd(device),
                device_key(device),
            )

        count = self.ask.spec.count
        candidates = [
            self.suited[name]
            for name in self._open
            if self._open_in[self.suited[name].host] >= count
        ]
        if count == 1:
            return (min(candidates, key=worth),)
        best: dict[str, list[Device]] = defaultdict(list)
        for device in sorted(candidates, key=worth):
            if len(best[device.host]) < count:
                best[device.host].append(device)
        chosen = min(best.values(), key=lambda devices: worth(devices[-1]))
        return tuple(sorted(chosen, key=device_key))
