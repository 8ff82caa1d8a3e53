"""Device strings: what one job or worker needs. Pure.

::

    cpu   cpu:0   cuda   cudax2   cuda:0   cuda:0,1   cuda:0,cuda:1   n1/cuda:0   n1/cudax2

Over several machines a string without a host means any of them: ``cuda:0`` is the card of that
number in some machine, ``cudax2`` two cards of the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.card_wish import ANY_CARD, CardWish
from snakemake_executor_gpupool.devices.device import Device, natural_key
from snakemake_executor_gpupool.devices.kinds import ANY_GPU, KINDS, gpu_kinds, maker_of
from snakemake_executor_gpupool.errors import DeviceStringError

# Longer numbers are no device indices; the bound also keeps int() cheap on garbage.
NUMBER = "[0-9]{1,6}"
HOST = "[A-Za-z0-9][A-Za-z0-9_.-]*"


_GPU_GRAMMAR = ", ".join(
    f'"{kind.word}" (any one GPU), "{kind.word}xN" (any N GPUs), '
    f'"{kind.word}:I" or "{kind.word}:I,J" (these GPUs)'
    for kind in gpu_kinds()
)
DEVICE_GRAMMAR = (
    f'a device is one of: "cpu", {_GPU_GRAMMAR}, "cpu:I" (this CPU slot); '
    'on a cluster "NODE/" before it says on which node'
)


@dataclass(frozen=True)
class DeviceSpec:
    """What one request asks for.

    Parameters
    ----------
    kind
        The word that it was asked by, ``"cuda"`` or ``"cpu"``. A device of another kind may serve
        it as well (:meth:`~.device_kind.DeviceKind.serves`).
    count
        How many devices.
    names
        Exactly these devices, in numeric order; empty: any ``count`` of them. One without a
        host is the device of that name in any machine.
    host
        The machine that they are to be in; empty: any one.
    card
        Which models of card; only of GPUs.
    """

    kind: str
    count: int = 1
    names: tuple[str, ...] = ()
    host: str = ""
    card: CardWish = ANY_CARD

    def __str__(self) -> str:
        return f"{self._devices} ({self.card})" if self.card else self._devices

    @property
    def _devices(self) -> str:
        before = f"{self.host}/" if self.host else ""
        if self.names:
            numbers = ",".join(name.rpartition(":")[2] for name in self.names)
            return f"{before}{self.kind}:{numbers}"
        return before + (self.kind if self.count == 1 else f"{self.kind}x{self.count}")

    def is_served_by(self, kind: str) -> bool:
        """Tell whether devices of a kind, given by its word, are what is asked for."""
        return KINDS[kind].serves(self.kind)

    def accepts(self, device: Device) -> bool:
        """Tell whether a device is one of those that are asked for."""
        if not self.is_served_by(device.kind):
            return False
        if self.host and device.host != self.host:
            return False
        if self.card and not self.card.accepts(device, maker_of(device)):
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
    DeviceSpec(kind='cuda', count=2, names=(), host='', card=CardWish(models=(), makers=()))
    >>> parse_device("cuda:1, cuda:0").names
    ('cuda:0', 'cuda:1')
    """
    if not isinstance(text, str):
        raise _not_a_device(text, "it must be text")
    compact = "".join(text.split())
    if at := re.fullmatch(rf"({HOST})/(.*)", compact):
        return _on_host(at[1], _parse_local(text, at[2].replace(f",{at[1]}/", ",")))
    return _parse_local(text, compact)


def _parse_local(text: str, compact: str) -> DeviceSpec:
    if compact in KINDS:
        return DeviceSpec(compact)
    if counted := re.fullmatch(rf"({gpu_words()})x({NUMBER})", compact):
        return _counted(text, counted[1], int(counted[2]))
    return _specific(text, compact)


def gpu_words() -> str:
    """Return a regular expression for the word of any kind of GPU."""
    return "|".join(re.escape(kind.word) for kind in gpu_kinds())


def _on_host(host: str, spec: DeviceSpec) -> DeviceSpec:
    names = tuple(f"{host}/{name}" for name in spec.names)
    return DeviceSpec(spec.kind, spec.count, names, host)


def gpus(count: int, card: CardWish = ANY_CARD) -> DeviceSpec:
    """Return the request for any ``count`` GPUs of some models: what ``gpu=count`` means.

    Raises
    ------
    DeviceStringError
        ``count`` is not a whole number of at least one.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise _not_a_device(count, "a number of GPUs is a whole number of at least 1")
    return DeviceSpec(ANY_GPU, count, card=card)


def _counted(text: str, word: str, count: int) -> DeviceSpec:
    if count < 1:
        raise _not_a_device(text, "at least 1 GPU must be asked for")
    return DeviceSpec(word, count)


def _specific(text: str, compact: str) -> DeviceSpec:
    """Read ``kind:I``, ``kind:I,J`` or ``kind:I,kind:J``."""
    words = "|".join(map(re.escape, KINDS))
    head = re.fullmatch(rf"({words}):({NUMBER}(?:,(?:\1:)?{NUMBER})*)", compact)
    if head is None:
        raise _not_a_device(text)
    kind = head[1]
    indices = [int(part.rpartition(":")[2]) for part in head[2].split(",")]
    repeated = sorted({index for index in indices if indices.count(index) > 1})
    if repeated:
        raise _not_a_device(text, f"{kind}:{repeated[0]} is named twice")
    return DeviceSpec(kind, len(indices), tuple(f"{kind}:{index}" for index in sorted(indices)))


def _not_a_device(value: object, why: str = "") -> DeviceStringError:
    return DeviceStringError(f"{value!r} is no device{': ' * bool(why)}{why}; {DEVICE_GRAMMAR}")


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return device names in numeric order (``cuda:9`` before ``cuda:10``)."""
    return sorted(names, key=natural_key)
