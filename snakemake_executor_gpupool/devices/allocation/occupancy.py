"""Who is on which device, and what fits beside what: the scratch copy of one round. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from snakemake_executor_gpupool.devices.allocation.requests import (
    DeviceRequest,
    Holder,
    Phase,
    fits,
    suits,
)
from snakemake_executor_gpupool.devices.device import Device, device_key
from snakemake_executor_gpupool.devices.kinds import is_gpu


class Occupancy:
    """Who is on which device: a scratch copy that one round of decisions changes.

    Parameters
    ----------
    devices
        The managed devices.
    holders
        Who holds them; devices that are not managed are ignored.
    foreign
        Names of devices that another process holds.
    packing
        Whether workers may share a device.
    given_at
        For each device the serial number of the last grant on it (round robin).
    """

    def __init__(
        self,
        devices: Iterable[Device],
        holders: Iterable[Holder] = (),
        foreign: Iterable[str] = (),
        packing: bool = False,
        given_at: Mapping[str, int] | None = None,
    ) -> None:
        self.devices = sorted(devices, key=device_key)
        self.packing = packing
        self._foreign = frozenset(foreign)
        self._given_at = dict(given_at or {})
        self._reserved: set[str] = set()
        self._suited: dict[str, list[Device]] = {}
        self._on: dict[str, dict[str, Holder]] = {device.name: {} for device in self.devices}
        self._holders: dict[str, Holder] = {}
        for holder in holders:
            self.put(holder)

    def put(self, holder: Holder) -> None:
        """Add a holder, or replace it by its new state."""
        self._holders[holder.request.request_id] = holder
        for name in holder.device_names:
            if name in self._on:
                self._on[name][holder.request.request_id] = holder

    def take(self, holder: Holder) -> None:
        """Remove a holder."""
        del self._holders[holder.request.request_id]
        for name in holder.device_names:
            if name in self._on:
                del self._on[name][holder.request.request_id]

    def leave(self, holder: Holder) -> None:
        """Note that a holder is being evicted."""
        self.put(replace(holder, phase=Phase.LEAVING))

    def granted(self, name: str, serial: int) -> None:
        """Note a grant, for the round robin."""
        self._given_at[name] = serial

    def holders(self) -> Iterator[Holder]:
        """Return all holders, in the order in which they were put."""
        return iter(self._holders.values())

    def is_served(self, request: DeviceRequest) -> bool:
        """Tell whether another holder of the request's group has devices, and keeps them."""
        return request.group is not None and any(
            holder.request.group == request.group
            and holder.request.request_id != request.request_id
            and holder.phase is not Phase.LEAVING
            for holder in self._holders.values()
        )

    def is_foreign(self, device: Device) -> bool:
        """Tell whether another process holds a device."""
        return device.name in self._foreign

    def is_open(self, device: Device) -> bool:
        """Tell whether anything could still be placed on a device in this round."""
        return device.name not in self._reserved and not self.is_foreign(device)

    @property
    def has_open_gpus(self) -> bool:
        """Whether a GPU is left for requests further back in the queue."""
        return any(is_gpu(device) and self.is_open(device) for device in self.devices)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep devices from all requests further back in the queue, during this round."""
        self._reserved.update(names)

    def claim(self, request: DeviceRequest, devices: Sequence[Device]) -> None:
        """Keep for a waiting request its share of the devices that it waits for."""
        if not self.packing or not request.shares:
            self.reserve(device.name for device in devices)
            return
        self.reserve(device.name for device in devices if device.exclusive_process)
        claim_id = f"claim of {request.request_id}"
        names = tuple(device.name for device in devices)
        for device in devices:
            self._on[device.name][claim_id] = Holder(request, names)

    def suited(self, request: DeviceRequest) -> list[Device]:
        """Return the devices that could ever serve the request."""
        if request.request_id not in self._suited:
            self._suited[request.request_id] = [
                device for device in self.devices if suits(request, device)
            ]
        return self._suited[request.request_id]

    def admits(self, request: DeviceRequest, device: Device) -> bool:
        """Tell whether a request fits on a device beside the holders that are there now."""
        if not is_gpu(device):
            return True
        if not self.is_open(device):
            return False
        there = [holder.request for holder in self._on[device.name].values()]
        if not there:
            return True
        if not self.packing or device.exclusive_process:
            return False
        return all(other.shares for other in [request, *there]) and fits(request, there, device)

    def crowd(self, device: Device) -> tuple[int, int]:
        """Sort key of a device for a new holder: fewest holders, then least recently granted."""
        return len(self._on[device.name]), self._given_at.get(device.name, -1)
