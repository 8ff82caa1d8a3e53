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
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device import Device, cpu_slot, device_key
from snakemake_executor_gpupool.devices.device_spec import HOST, NUMBER, gpu_words, parse_device
from snakemake_executor_gpupool.devices.kinds import KINDS, gpu_kinds, gpus_among
from snakemake_executor_gpupool.errors import ConfigError, DeviceStringError

_CARDS = ", ".join(f'"{kind.word}:I" or "{kind.word}:I,J" (these GPUs)' for kind in gpu_kinds())
MANAGED_GRAMMAR = (
    'managed devices are: "auto" (all visible GPUs, else the CPU), "all" (all visible GPUs), '
    f"a number (the first so many GPUs), {_CARDS}, "
    '"cpu:N" (N CPU workers that share the cores), or GPUs and "cpu:N" together, as in '
    '"cuda:0,1,cpu:2"'
)


def parse_managed(
    text: str, cards_here: Sequence[Device], auto_cpu_slots: int = 1
) -> tuple[Device, ...]:
    """Choose the devices that the pool may use.

    Parameters
    ----------
    text
        A managed-devices string, as the module describes it.
    cards_here
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
    cards = sorted(gpus_among(cards_here), key=device_key)
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


@dataclass(frozen=True)
class _Cards:
    """Which GPUs one part of the string asks for.

    Parameters
    ----------
    word
        Of one kind; empty: of any.
    count
        The first so many; None: all, or those of ``indices``.
    indices
        Exactly these of one kind.
    """

    word: str
    count: int | None = None
    indices: tuple[int, ...] = ()

    def overlaps(self, other: _Cards) -> bool:
        """Tell whether both speak of the same kind."""
        return not self.word or not other.word or self.word == other.word

    def choose(self, text: str, cards: Sequence[Device]) -> tuple[Device, ...]:
        """Return the GPUs, or say which are missing.

        Raises
        ------
        ConfigError
            There are not so many, or not these.
        """
        candidates = [card for card in cards if not self.word or card.kind == self.word]
        if self.indices:
            return self._choose_named(text, candidates, cards)
        if self.count is None and not candidates:
            raise ConfigError(f"{text!r} asks for all GPUs, but {_there_is(candidates or cards)}")
        if self.count is not None and self.count > len(candidates):
            raise ConfigError(
                f"{text!r} asks for {self.count} GPUs, but {_there_is(candidates or cards)}"
            )
        return tuple(candidates[: self.count])

    def _choose_named(
        self, text: str, candidates: Sequence[Device], there: Sequence[Device]
    ) -> tuple[Device, ...]:
        by_index = {card.index: card for card in candidates}
        missing = [f"{self.word}:{index}" for index in self.indices if index not in by_index]
        if missing:
            raise ConfigError(
                f"{text!r} names {', '.join(missing)}, but {_there_is(candidates or there)}"
            )
        return tuple(by_index[index] for index in self.indices)


@dataclass
class _ManagedRequest:
    """A managed-devices string, read but not yet compared with what there is."""

    auto: bool = False
    cards: list[_Cards] = field(default_factory=list)
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
            return
        cards = _read_cards(text, part)
        if any(cards.overlaps(other) for other in self.cards):
            raise _not_managed(text, "the GPUs are given twice")
        self.cards.append(cards)

    def _take_cpu(self, text: str, slots: int) -> None:
        if self.cpu_slots or slots < 1:
            raise _not_managed(text, '"cpu:N" is given once, with N of at least 1')
        self.cpu_slots = slots

    def choose(self, text: str, cards: Sequence[Device]) -> tuple[Device, ...]:
        """Return the GPUs that this asks for, or say which are missing."""
        return tuple(card for part in self.cards for card in part.choose(text, cards))


def _read_cards(text: str, part: str) -> _Cards:
    """Read one part that is about GPUs."""
    if part == "all":
        return _Cards("")
    if part in KINDS:
        return _Cards(part)
    if counted := re.fullmatch(rf"(?:({gpu_words()})x)?({NUMBER})", part):
        if int(counted[2]) < 1:
            raise _not_managed(text, "the number of GPUs is at least 1")
        return _Cards(counted[1] or "", int(counted[2]))
    word = part.partition(":")[0]
    if not re.fullmatch(gpu_words(), word) or ":" not in part:
        raise _not_managed(text)
    try:
        names = parse_device(part).names
    except DeviceStringError as error:
        raise _not_managed(text, str(error).partition(";")[0]) from None
    return _Cards(word, None, tuple(int(name.rpartition(":")[2]) for name in names))


def _split_managed(compact: str) -> list[str]:
    """Split at commas, keeping the numbers that continue a ``cuda:0,1`` with it."""
    parts: list[str] = []
    for piece in compact.split(","):
        continues = re.fullmatch(rf"(?:({gpu_words()}):)?{NUMBER}", piece)
        begun = re.match(rf"({gpu_words()}):", parts[-1]) if parts else None
        if continues and begun and continues[1] in (None, begun[1]):
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
