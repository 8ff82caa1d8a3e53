"""Managed-devices strings: what the whole pool may use. Pure.

::

    auto   all   2   cuda:0,cuda:1   cpu:2   cuda:0,1,cpu:2   n1/all,n2/cuda:0

Over several machines a string without hosts holds for each of them; one with hosts holds for
those that it names, and no others are used.

``cpu:N`` means N CPU slots here, that is N workers that share the cores. In a device string
(:mod:`~.device_spec`) it is the one slot of that number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import CUDA, Device, cpu_slot, device_key
from snakemake_executor_gpupool.devices.device_spec import HOST, NUMBER, parse_device
from snakemake_executor_gpupool.errors import ConfigError, DeviceStringError

MANAGED_GRAMMAR = (
    'managed devices are: "auto" (all visible GPUs, else the CPU), "all" (all visible GPUs), '
    'a number (the first so many GPUs), "cuda:I" or "cuda:I,J" (these GPUs), '
    '"cpu:N" (N CPU workers that share the cores), or GPUs and "cpu:N" together, as in '
    '"cuda:0,1,cpu:2"'
)


def parse_managed(
    text: str, found: Sequence[Device], auto_cpu_slots: int = 1
) -> tuple[Device, ...]:
    """Choose the devices that the pool may use.

    Parameters
    ----------
    text
        A managed-devices string, as the module describes it.
    found
        The GPUs that the probe found.
    auto_cpu_slots
        How many CPU slots ``auto`` makes where there is no GPU.

    Raises
    ------
    DeviceStringError
        The string does not follow the grammar.
    ConfigError
        It names a device that is not there; the message lists what there is.
    """
    cards = sorted((device for device in found if device.kind == CUDA), key=device_key)
    request = _ManagedRequest.read(text)
    if request.auto:
        return tuple(cards) or _cpu_slots(auto_cpu_slots)
    return request.choose(text, cards) + _cpu_slots(request.cpu_slots)


def managed_of_host(text: str, host: str) -> str | None:
    """Return the part of a managed-devices string that holds for one machine; None: no part does.

    Examples
    --------
    >>> managed_of_host("n1/cuda:0,1,n2/all", "n1"), managed_of_host("2", "n1")
    ('cuda:0,1', '2')
    """
    compact = "".join(text.split())
    parts = re.split(rf"(?:^|,)({HOST})/", compact)
    if len(parts) == 1:
        return text
    if parts[0]:
        raise _not_managed(text, "either every part names its node or none does")
    named = zip(parts[1::2], parts[2::2], strict=True)
    return ",".join(part for name, part in named if name == host) or None


def _cpu_slots(count: int) -> tuple[Device, ...]:
    return tuple(cpu_slot(index) for index in range(count))


@dataclass
class _ManagedRequest:
    """A managed-devices string, read but not yet compared with what there is."""

    auto: bool = False
    every: bool = False
    count: int | None = None
    indices: tuple[int, ...] = ()
    cpu_slots: int = 0

    @classmethod
    def read(cls, text: str) -> _ManagedRequest:
        """Read the parts of the string, separated by commas, one after the other."""
        compact = "".join(text.split()).lower()
        if compact == "auto":
            return cls(auto=True)
        request = cls()
        for part in _split_managed(compact):
            request._take(text, part)
        return request

    def _take(self, text: str, part: str) -> None:
        """Add what one part says."""
        if cpu := re.fullmatch(rf"cpu(?::({NUMBER}))?", part):
            self._take_cpu(text, int(cpu[1] or 1))
        elif self.every or self.count is not None or self.indices:
            raise _not_managed(text, "the GPUs are given twice")
        elif part in ("all", CUDA):
            self.every = True
        elif counted := re.fullmatch(rf"(?:cudax)?({NUMBER})", part):
            self._take_count(text, int(counted[1]))
        elif part.startswith("cuda:"):
            self._take_indices(text, part)
        else:
            raise _not_managed(text)

    def _take_cpu(self, text: str, slots: int) -> None:
        if self.cpu_slots or slots < 1:
            raise _not_managed(text, '"cpu:N" is given once, with N of at least 1')
        self.cpu_slots = slots

    def _take_count(self, text: str, count: int) -> None:
        if count < 1:
            raise _not_managed(text, "the number of GPUs is at least 1")
        self.count = count

    def _take_indices(self, text: str, part: str) -> None:
        try:
            names = parse_device(part).names
        except DeviceStringError as error:
            raise _not_managed(text, str(error).partition(";")[0]) from None
        self.indices = tuple(int(name.rpartition(":")[2]) for name in names)

    def choose(self, text: str, cards: Sequence[Device]) -> tuple[Device, ...]:
        """Return the GPUs that this asks for, or say which are missing."""
        if self.every and not cards:
            raise ConfigError(f"{text!r} asks for all GPUs, but {_there_is(cards)}")
        if self.count is not None and self.count > len(cards):
            raise ConfigError(f"{text!r} asks for {self.count} GPUs, but {_there_is(cards)}")
        by_index = {card.index: card for card in cards}
        missing = [f"cuda:{index}" for index in self.indices if index not in by_index]
        if missing:
            raise ConfigError(f"{text!r} names {', '.join(missing)}, but {_there_is(cards)}")
        if self.indices:
            return tuple(by_index[index] for index in self.indices)
        return tuple(cards) if self.every else tuple(cards[: self.count or 0])


def _split_managed(compact: str) -> list[str]:
    """Split at commas, keeping the numbers that continue a ``cuda:0,1`` with it."""
    parts: list[str] = []
    for piece in compact.split(","):
        continues = re.fullmatch(rf"(cuda:)?{NUMBER}", piece)
        if continues and parts and parts[-1].startswith("cuda:"):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def _there_is(cards: Sequence[Device]) -> str:
    if not cards:
        return "no GPU is visible"
    return "there is only " + ", ".join(f"{card.name} ({card.model_name})" for card in cards)


def _not_managed(text: str, why: str = "") -> DeviceStringError:
    return DeviceStringError(
        f"{text!r} is not understood{': ' * bool(why)}{why}; {MANAGED_GRAMMAR}"
    )
