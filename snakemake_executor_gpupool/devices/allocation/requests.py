"""Requests for devices, holders of devices, and which devices suit a request. Pure."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from snakemake_executor_gpupool.devices.card_wish import ANY_CARD
from snakemake_executor_gpupool.devices.device import Device, device_key, fit_one_process
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import kind_of

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
    alone
        Needs a device to itself: it is not shared, and workers that make room for it end, since a
        process whose weights were moved still holds some memory.
    group
        Common to requests that serve one purpose, such as the workers of a model: for a further
        one of a group, no worker with work left makes room. None: it is the only one.
    """

    request_id: str
    spec: DeviceSpec
    kind: str
    owner: str = ""
    priority: int = 0
    vram_mib: int | None = None
    can_offload: bool = False
    alone: bool = False
    group: Hashable = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.owner or self.request_id

    @property
    def shares(self) -> bool:
        """Whether it may share a device: a lease only if its memory need is known."""
        return not self.alone and (self.kind == WORKER or self.vram_mib is not None)


class Phase(enum.IntEnum):
    """What a holder does, in the order of what its eviction costs."""

    OFFLOADED = 0
    """Its weights are in host memory; it holds no device."""
    LEAVING = 1
    """It was evicted, or told to end, and its devices are not free yet."""
    IDLE = 2
    BUSY = 3


@dataclass(frozen=True)
class Holder:
    """A request together with the devices that it holds, or is going to hold."""

    request: DeviceRequest
    device_names: tuple[str, ...]
    phase: Phase = Phase.BUSY
    last_used_s: float = 0.0
    serial: int = 0
    next_use_s: float = 0.0

    @property
    def holder_id(self) -> str:
        """The id of its request."""
        return self.request.request_id

    @property
    def cost_of_loss(self) -> tuple[bool, Phase, float, float, int]:
        """Sort key of eviction: idle before busy, then used last, then least recently used.

        Leases come last of all.
        """
        is_lease = self.request.kind == LEASE
        return is_lease, self.phase, -self.next_use_s, self.last_used_s, self.serial


def suits(request: DeviceRequest, device: Device) -> bool:
    """Tell whether a device, with nobody on it, could serve a request or a part of it."""
    if not request.spec.accepts(device):
        return False
    if request.spec.count > 1 and kind_of(device).why_single(device):
        return False
    return fits(request, (), device)


def can_offload(request: DeviceRequest, devices: Iterable[Device]) -> bool:
    """Tell whether a worker on some devices can give them up by moving its weights away.

    An offloaded process keeps its context on the device, and so a card that admits one process
    only would still refuse all others.
    """
    return request.can_offload and not any(device.exclusive_process for device in devices)


def fits(request: DeviceRequest, there: Iterable[DeviceRequest], device: Device) -> bool:
    """Tell whether a request fits beside others on a device, as far as memory needs are known."""
    if request.vram_mib is None or device.memory_mib is None:
        return True
    return request.vram_mib + sum(other.vram_mib or 0 for other in there) <= device.memory_mib


def why_impossible(request: DeviceRequest, devices: Sequence[Device]) -> str | None:
    """Return why no amount of waiting could serve a request; None if it can be served."""
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


def why_no_card(spec: DeviceSpec, same_kind: Iterable[Device]) -> str:
    """Return that no machine has so many of the cards asked for, and what it has; empty: one has.

    Examples
    --------
    >>> from snakemake_executor_gpupool.devices.card_wish import CardWish
    >>> spec = DeviceSpec("cuda", card=CardWish(("h100",)))
    >>> why_no_card(spec, [Device("cuda:0", "cuda", 0, model_name="NVIDIA A100-SXM4-80GB")])
    'there is only NVIDIA A100-SXM4-80GB (cuda:0)'
    """
    there = sorted(same_kind, key=device_key)
    named = [device for device in there if replace(spec, card=ANY_CARD).accepts(device)]
    if not spec.card or fit_one_process(filter(spec.accepts, named), spec.count):
        return ""
    by_model: dict[str, list[str]] = {}
    for device in named or there:
        by_model.setdefault(device.model_name or "a GPU", []).append(device.name)
    listed = [f"{model} ({', '.join(names)})" for model, names in by_model.items()]
    return f"there is only {', '.join(listed)}" if listed else "there is no GPU"


def _shortfall(request: DeviceRequest, same_kind: Sequence[Device]) -> str:
    if len(same_kind) < request.spec.count:
        return ""
    if problem := why_no_card(request.spec, same_kind):
        return f", but {problem}"
    if not fit_one_process(same_kind, request.spec.count):
        return ", which no one machine has"
    if request.spec.host:
        return ""
    reasons = {kind_of(device).why_single(device) for device in same_kind} - {""}
    if reasons and request.spec.count > 1:
        return f", but {min(reasons)}"
    return _too_small(request, [device for device in same_kind if request.spec.accepts(device)])


def _too_small(request: DeviceRequest, there: Sequence[Device]) -> str:
    asked = f" with {request.vram_mib} MiB each"
    if large := [device for device in there if fits(request, (), device)]:
        names = ", ".join(device.name for device in sorted(large, key=device_key))
        return f"{asked}, but of these only {names} {'has' if len(large) == 1 else 'have'} as much"
    most = max((device.memory_mib or 0 for device in there), default=0)
    return f"{asked}, but they have at most {most} MiB"
