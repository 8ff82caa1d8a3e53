"""Who asks, who holds, and what fits beside what: the vocabulary of the decisions. Pure."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from snakemake_executor_gpupool.devices.device import Device, device_key, fit_one_process
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import is_gpu, kind_of

WORKER = "worker"
LEASE = "lease"


@dataclass(frozen=True)
class DeviceRequest:
    """One request for devices.

    Parameters
    ----------
    request_id
        Names the request, and afterwards its holder.
    spec
        Which devices.
    kind
        ``"worker"`` (a warm worker, evicted when idle) or ``"lease"`` (a plain GPU
        job or a one-shot call, never evicted).
    owner
        Tool and instance, or rule: for messages and the allocation map.
    priority
        Higher is served first.
    vram_mib
        Declared or measured memory need on each device; None if unknown.
    can_offload
        The tool can move its weights to host memory and back.
    pinned
        Never moved to host memory: evicted by restart.
    alone
        For a device that nobody else has anything on: it is not shared, and whoever makes
        placement for it ends, since a process whose weights have moved still holds some memory.
    group
        What those have in common that serve one purpose, such as the workers of a model: for a
        further one nobody with work left makes room. None: it is the only one.
    """

    request_id: str
    spec: DeviceSpec
    kind: str
    owner: str = ""
    priority: int = 0
    vram_mib: int | None = None
    can_offload: bool = False
    pinned: bool = False
    alone: bool = False
    group: Hashable = None

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.owner or self.request_id

    @property
    def shares(self) -> bool:
        """Whether it can live beside others: a lease only with a known need."""
        return not self.alone and (self.kind == WORKER or self.vram_mib is not None)


class Phase(enum.IntEnum):
    """What a holder is doing, from the cheapest to lose to the dearest."""

    OFFLOADED = 0
    """Its weights are in host memory; it holds no device."""
    LEAVING = 1
    """It was evicted, and its devices are not free yet."""
    IDLE = 2
    BUSY = 3


@dataclass(frozen=True)
class Holder:
    """A request on the devices that it holds, or is going to hold."""

    request: DeviceRequest
    device_names: tuple[str, ...]
    phase: Phase = Phase.BUSY
    last_used_s: float = 0.0
    serial: int = 0

    @property
    def cost_of_loss(self) -> tuple[bool, Phase, float, int]:
        """Sort key: who goes first. Leases last, busy after idle, then least recently used."""
        return self.request.kind == LEASE, self.phase, self.last_used_s, self.serial


class Occupancy:
    """Who holds what: a scratch copy that one turn of decisions writes on.

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
        """Add a holder, or put a removed one back, or replace it by its new state."""
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
        """Return everybody, in no particular order."""
        return iter(self._holders.values())

    def is_served(self, request: DeviceRequest) -> bool:
        """Whether somebody else of the request's group has devices, and keeps them."""
        return request.group is not None and any(
            holder.request.group == request.group
            and holder.request.request_id != request.request_id
            and holder.phase is not Phase.LEAVING
            for holder in self._holders.values()
        )

    def is_foreign(self, device: Device) -> bool:
        """Whether another process holds the device."""
        return device.name in self._foreign

    def is_open(self, device: Device) -> bool:
        """Whether anything could still be placed on the device in this turn."""
        return device.name not in self._reserved and not self.is_foreign(device)

    @property
    def has_open_gpus(self) -> bool:
        """Whether any GPU is left for those further back in the line."""
        return any(is_gpu(device) and self.is_open(device) for device in self.devices)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep devices from everybody further back in the line, during this turn."""
        self._reserved.update(names)

    def claim(self, request: DeviceRequest, devices: Sequence[Device]) -> None:
        """Keep for a waiting request its part of the devices that it waits for."""
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
        """Whether the request fits on the device beside who is there now."""
        if not is_gpu(device):
            return True
        if not self.is_open(device):
            return False
        there = [holder.request for holder in self._on[device.name].values()]
        if not there:
            return True
        if not self.packing or device.exclusive_process:
            return False
        return all(other.shares for other in [request, *there]) and _fits(request, there, device)

    def crowd(self, device: Device) -> tuple[int, int]:
        """Sort key of a device for a new holder: fewest there, then longest not given."""
        return len(self._on[device.name]), self._given_at.get(device.name, -1)


def suits(request: DeviceRequest, device: Device) -> bool:
    """Whether the device, with nobody on it, could be one of those for the request."""
    if not request.spec.accepts(device):
        return False
    if request.spec.count > 1 and kind_of(device).why_single(device):
        return False
    return _fits(request, (), device)


def _fits(request: DeviceRequest, there: Iterable[DeviceRequest], device: Device) -> bool:
    """Whether the memory figures, as far as they are known, allow it."""
    if request.vram_mib is None or device.memory_mib is None:
        return True
    return request.vram_mib + sum(other.vram_mib or 0 for other in there) <= device.memory_mib


def why_impossible(request: DeviceRequest, devices: Sequence[Device]) -> str | None:
    """Say why no amount of waiting could serve the request; None if it can be served."""
    if fit_one_process(
        (device for device in devices if suits(request, device)), request.spec.count
    ):
        return None
    same_kind = [device for device in devices if request.spec.is_served_by(device.kind)]
    names = [device.name for device in sorted(same_kind, key=device_key)]
    managed = f"managed here: {', '.join(names) or f'no {request.spec.kind} device'}"
    known = {*names, *(device.local_name for device in same_kind)}
    unknown = [name for name in request.spec.names if name not in known]
    if unknown:
        return f"{request.label} asks for {', '.join(unknown)}; {managed}"
    return f"{request.label} asks for {request.spec}{_shortfall(request, same_kind)}; {managed}"


def _shortfall(request: DeviceRequest, same_kind: Sequence[Device]) -> str:
    if len(same_kind) < request.spec.count:
        return ""
    if not fit_one_process(same_kind, request.spec.count):
        return ", which no one machine has"
    if request.spec.host:
        return ""
    reasons = {kind_of(device).why_single(device) for device in same_kind} - {""}
    if reasons and request.spec.count > 1:
        return f", but {min(reasons)}"
    most = max(device.memory_mib or 0 for device in same_kind)
    return f" with {request.vram_mib} MiB each, but they have at most {most} MiB"
