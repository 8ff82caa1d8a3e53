"""From NVIDIA's physical cards to the devices that this process may use. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device import Device

CUDA = "cuda"


@dataclass(frozen=True)
class Card:
    """A physical card, or one MIG slice of it."""

    index: int
    uuid: str
    model_name: str
    memory_mib: int | None
    exclusive_process: bool = False
    prohibited: bool = False
    slices: tuple[Card, ...] | None = None
    """The MIG slices; None: MIG is off."""


@dataclass(frozen=True)
class Inventory:
    """All cards by physical index, and why the others cannot be used."""

    cards: dict[int, Card]
    unusable: dict[int, str] = field(default_factory=dict)


def visible_entries(env: Mapping[str, str]) -> list[str] | None:
    """Return the entries of ``CUDA_VISIBLE_DEVICES``; None if it is not set.

    As in CUDA, the list ends at the first entry that is empty or negative.
    """
    value = env.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries = (part.strip() for part in value.split(","))
    return list(itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries))


@dataclass(frozen=True)
class _Sight:
    """One logical device: what is there, and the token that shows it."""

    card: Card | None
    token: str
    is_mig: bool = False
    problem: str = ""


def select_visible(
    inventory: Inventory, env: Mapping[str, str]
) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Number the visible devices, and say what is wrong with those left out.

    A card that cannot be used keeps its number, so that the others keep theirs.
    """
    devices, warnings = [], list(_order_warning(inventory, env))
    sights, unknown = _sights(inventory, visible_entries(env))
    warnings += unknown
    uuids = [sight.card.uuid for sight in sights if sight.card]
    if len(set(uuids)) < len(uuids):
        return (), (*warnings, "CUDA_VISIBLE_DEVICES names one card twice: CUDA then shows none")
    for index, sight in enumerate(sights):
        if sight.card is None or sight.problem:
            warnings.append(f"{CUDA}:{index} is not used: {sight.problem}")
        else:
            devices.append(_device(index, sight.card, sight))
    return tuple(devices), tuple(warnings)


def _device(index: int, card: Card, sight: _Sight) -> Device:
    return Device(
        name=f"{CUDA}:{index}",
        kind=CUDA,
        index=index,
        uuid=card.uuid,
        memory_mib=card.memory_mib,
        model_name=card.model_name,
        visible_id=sight.token,
        exclusive_process=card.exclusive_process,
        is_mig=sight.is_mig,
    )


def _sights(inventory: Inventory, entries: list[str] | None) -> tuple[list[_Sight], list[str]]:
    """Return the logical devices in order, and warnings about unknown entries."""
    if entries is None:
        entries = [str(index) for index in sorted({*inventory.cards, *inventory.unusable})]
    sights: list[_Sight] = []
    for entry in entries:
        named = list(_find(inventory, entry))
        if not named:
            return sights, [
                f"CUDA_VISIBLE_DEVICES: {entry!r} is no device of this machine; "
                "as CUDA does, it and all entries after it are ignored"
            ]
        sights += named
    return sights, []


def _find(inventory: Inventory, entry: str) -> Iterator[_Sight]:
    """Find what one entry of ``CUDA_VISIBLE_DEVICES`` names."""
    if entry.startswith("MIG-"):
        slices = [part for card in inventory.cards.values() for part in card.slices or ()]
        matches = [part for part in slices if part.uuid.startswith(entry)]
        if len(matches) == 1:
            yield _Sight(matches[0], matches[0].uuid, is_mig=True)
        return
    if entry.isdecimal() and int(entry) in inventory.unusable:
        yield _Sight(None, entry, problem=inventory.unusable[int(entry)])
        return
    card = _find_card(inventory, entry)
    if card is not None:
        yield from _sights_of(card, entry)


def _find_card(inventory: Inventory, entry: str) -> Card | None:
    if entry.isdecimal():
        return inventory.cards.get(int(entry))
    matches = [card for card in inventory.cards.values() if card.uuid.startswith(entry)]
    # "GPU-" and nothing more would be a prefix of the only card; CUDA wants some digits.
    return matches[0] if len(matches) == 1 and len(entry) > len("GPU-") else None


def _sights_of(card: Card, token: str) -> Iterator[_Sight]:
    """Yield the card itself or, with MIG, its slices."""
    if card.slices is None:
        problem = "its compute mode is Prohibited" if card.prohibited else ""
        yield _Sight(card, token, problem=problem)
    elif card.slices:
        for part in card.slices:
            yield _Sight(part, part.uuid, is_mig=True)
    else:
        yield _Sight(None, token, problem="MIG is on, but no slice was made")


def _order_warning(inventory: Inventory, env: Mapping[str, str]) -> Iterator[str]:
    """Warn where CUDA and the driver may number the cards differently."""
    by_number = any(entry.isdecimal() for entry in visible_entries(env) or ())
    mixed = len({card.model_name for card in inventory.cards.values()}) > 1
    if by_number and mixed and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        yield (
            "this machine has different GPU models, and CUDA_VISIBLE_DEVICES gives numbers; "
            "they are read in the order of `nvidia-smi`. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or "
            "give UUIDs, to be sure"
        )
