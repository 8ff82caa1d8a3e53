"""What the allocator returns: effects to carry out, and a readable state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.allocation.requests import DeviceRequest, Holder, Phase
from snakemake_executor_gpupool.devices.card_wish import CardWish
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import sorted_names


@dataclass(frozen=True)
class Granted:
    """The request holds these devices now, in numeric order."""

    request_id: str
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Evict:
    """End this holder (RESTART), or move its weights to host memory (CPU)."""

    holder_id: str
    how: OffloadStrategy


@dataclass(frozen=True)
class Impossible:
    """No amount of waiting could serve the request; it is forgotten."""

    request_id: str
    reason: str


AllocationEffect = Granted | Evict | Impossible


@dataclass(frozen=True)
class Snapshot:
    """The whole state, readable: for logs and tests."""

    managed: tuple[str, ...]
    holders: dict[str, tuple[str, Phase, tuple[str, ...]]]
    """By id: owner, phase, device names."""
    waiting: tuple[str, ...]
    """Ids in the order in which they will be served."""
    wanted: tuple[CardWish, ...]
    """Which cards each of these asks for."""
    foreign: tuple[str, ...]
    """Names of devices that other processes hold."""
    lost: tuple[str, ...]

    @classmethod
    def of(
        cls,
        managed: Iterable[Device],
        holders: Iterable[Holder],
        waiting: Sequence[DeviceRequest],
        foreign: Iterable[str],
        lost: Iterable[str],
    ) -> Snapshot:
        """Return a readable copy of an allocator's tables."""
        return cls(
            managed=tuple(device.name for device in managed),
            holders={
                holder.holder_id: (holder.request.owner, holder.phase, holder.device_names)
                for holder in holders
            },
            waiting=tuple(request.request_id for request in waiting),
            wanted=tuple(request.spec.card for request in waiting),
            foreign=tuple(sorted_names(foreign)),
            lost=tuple(sorted_names(lost)),
        )


def who_is_where(managed: Iterable[Device], holders: Iterable[Holder]) -> dict[str, list[str]]:
    """Return for each device, managed or still held, the owners of its holders."""
    holders = list(holders)
    names = [device.name for device in managed]
    names += [name for holder in holders for name in holder.device_names]
    on: dict[str, list[str]] = {name: [] for name in sorted_names(dict.fromkeys(names))}
    for holder in holders:
        for name in holder.device_names:
            on[name].append(holder.request.label)
    return on
