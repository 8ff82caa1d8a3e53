"""The two small languages for devices.

A *device string* says what one job or worker needs::

    cpu   cpu:0   cuda   cudax2   cuda:0   cuda:0,1   cuda:0,cuda:1   n1/cuda:0   n1/cudax2

A *managed-devices string* says what the whole pool may use::

    auto   all   2   cuda:0,cuda:1   cpu:2   cuda:0,1,cpu:2   n1/all,n2/cuda:0

Over several machines, a device string without a host means any one of them: ``cuda:0`` is
the card of that number in some machine, ``cudax2`` two cards of the same one. A
managed-devices string without hosts holds for each machine; one with hosts for those
that it names, and no others are used.

The two differ on purpose in ``cpu:N``: as a device string it is the CPU slot of
that number; as managed devices it is N slots, that is N workers that share the
cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import (
    CPU,
    CUDA,
    Device,
    cpu_slot,
    device_key,
    natural_key,
)
from snakemake_executor_gpupool.errors import ConfigError, DeviceStringError

DEVICE_GRAMMAR = (
    'a device is one of: "cpu", "cuda" (any one GPU), "cudaxN" (any N GPUs), '
    '"cuda:I" or "cuda:I,J" (these GPUs), "cpu:I" (this CPU slot); '
    'on a cluster "NODE/" before it says on which node'
)
MANAGED_GRAMMAR = (
    'managed devices are: "auto" (all visible GPUs, else the CPU), "all" (all visible GPUs), '
    'a number (the first so many GPUs), "cuda:I" or "cuda:I,J" (these GPUs), '
    '"cpu:N" (N CPU workers that share the cores), or GPUs and "cpu:N" together, as in '
    '"cuda:0,1,cpu:2"'
)

# Longer numbers are no device indices; the bound also keeps int() cheap on garbage.
_NUMBER = "[0-9]{1,6}"
_HOST = "[A-Za-z0-9][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class DeviceSpec:
    """What one request asks for.

    Parameters
    ----------
    kind
        ``"cuda"`` or ``"cpu"``.
    count
        How many devices.
    names
        Exactly these devices, in numeric order; empty: any ``count`` of them. One without a
        host is the device of that name in any machine.
    host
        The machine that they are to be in; empty: any one.
    """

    kind: str
    count: int = 1
    names: tuple[str, ...] = ()
    host: str = ""

    def __str__(self) -> str:
        before = f"{self.host}/" if self.host else ""
        if self.names:
            numbers = ",".join(name.rpartition(":")[2] for name in self.names)
            return f"{before}{self.kind}:{numbers}"
        return before + (self.kind if self.count == 1 else f"{self.kind}x{self.count}")

    def accepts(self, device: Device) -> bool:
        """Tell whether a device is one of those that are asked for."""
        if device.kind != self.kind or (self.host and device.host != self.host):
            return False
        return not self.names or device.name in self.names or device.local_name in self.names


def parse_device(text: str) -> DeviceSpec:
    """Read a device string.

    Raises
    ------
    DeviceStringError
        It is none; the message shows the grammar.

    Examples
    --------
    >>> parse_device("cudax2")
    DeviceSpec(kind='cuda', count=2, names=())
    >>> parse_device("cuda:1, cuda:0").names
    ('cuda:0', 'cuda:1')
    """
    if not isinstance(text, str):
        raise _not_a_device(text, "it must be text")
    compact = "".join(text.split())
    if at := re.fullmatch(rf"({_HOST})/(.*)", compact):
        return _on_host(at[1], _parse_local(text, at[2].replace(f",{at[1]}/", ",")))
    return _parse_local(text, compact)


def _parse_local(text: str, compact: str) -> DeviceSpec:
    if compact in (CPU, CUDA):
        return DeviceSpec(compact)
    if counted := re.fullmatch(rf"cudax({_NUMBER})", compact):
        return _counted(text, int(counted[1]))
    return _specific(text, compact)


def _on_host(host: str, spec: DeviceSpec) -> DeviceSpec:
    names = tuple(f"{host}/{name}" for name in spec.names)
    return DeviceSpec(spec.kind, spec.count, names, host)


def gpus(count: int) -> DeviceSpec:
    """Return the request for any ``count`` GPUs: what ``gpu=count`` means.

    Raises
    ------
    DeviceStringError
        ``count`` is not a whole number of at least one.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise _not_a_device(count, "a number of GPUs is a whole number of at least 1")
    return DeviceSpec(CUDA, count)


def _counted(text: str, count: int) -> DeviceSpec:
    if count < 1:
        raise _not_a_device(text, "at least 1 GPU must be asked for")
    return gpus(count)


def _specific(text: str, compact: str) -> DeviceSpec:
    """Read ``kind:I``, ``kind:I,J`` or ``kind:I,kind:J``."""
    head = re.fullmatch(rf"(cuda|cpu):({_NUMBER})((?:,(?:\1:)?{_NUMBER})*)", compact)
    if head is None:
        raise _not_a_device(text)
    kind = head[1]
    indices = [int(number) for number in re.findall("[0-9]+", compact)]
    repeated = sorted({index for index in indices if indices.count(index) > 1})
    if repeated:
        raise _not_a_device(text, f"{kind}:{repeated[0]} is named twice")
    return DeviceSpec(kind, len(indices), tuple(f"{kind}:{index}" for index in sorted(indices)))


def _not_a_device(value: object, why: str = "") -> DeviceStringError:
    return DeviceStringError(f"{value!r} is no device{': ' * bool(why)}{why}; {DEVICE_GRAMMAR}")


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return device names in numeric order (``cuda:9`` before ``cuda:10``)."""
    return sorted(names, key=natural_key)


# --- managed devices


def parse_managed(
    text: str, found: Sequence[Device], auto_cpu_slots: int = 1
) -> tuple[Device, ...]:
    """Choose the devices that the pool may use.

    Parameters
    ----------
    text
        A managed-devices string, see the module's documentation.
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
    parts = re.split(rf"(?:^|,)({_HOST})/", compact)
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
        if cpu := re.fullmatch(rf"cpu(?::({_NUMBER}))?", part):
            self._take_cpu(text, int(cpu[1] or 1))
        elif self.every or self.count is not None or self.indices:
            raise _not_managed(text, "the GPUs are given twice")
        elif part in ("all", CUDA):
            self.every = True
        elif counted := re.fullmatch(rf"(?:cudax)?({_NUMBER})", part):
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
        continues = re.fullmatch(rf"(cuda:)?{_NUMBER}", piece)
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
