"""Simulated GPUs, for machines that have none. Pure.

``GPUPOOL_SIMULATE=4x80GiB`` is four GPUs of 80 GiB, and ``2x80GiB:A100,1x24GiB:RTX 4090`` three of
two models. What is placed on them computes on the CPU; everything else (placement, eviction,
leases, the children's ``CUDA_VISIBLE_DEVICES``) is as with real ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from snakemake_executor_gpupool.devices.cards import CUDA, visible_entries
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, SIMULATED_VARIABLE
from snakemake_executor_gpupool.errors import ConfigError

SIMULATE_VARIABLE = "GPUPOOL_SIMULATE"

#: What a simulated GPU is called that has no model.
NO_MODEL = "simulated GPU"

_MIB_PER_UNIT = {"gib": 1024.0, "gb": 1e9 / 2**20, "mib": 1.0, "mb": 1e6 / 2**20}
_MAX_DEVICES = 1024


def simulated_devices(env: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the simulated GPUs that the environment asks for; none if it asks for none.

    In a child of a simulated run, ``CUDA_VISIBLE_DEVICES`` narrows them. Elsewhere it
    does not: where there is no GPU it is often set to nothing, for other programs.

    Raises
    ------
    ConfigError
        ``GPUPOOL_SIMULATE`` is malformed.
    """
    text = env.get(SIMULATE_VARIABLE, "").strip()
    if not text:
        return ()
    cards = _parse(text)
    shown: list[int] = list(range(len(cards)))
    entries = visible_entries(env)
    is_child = LEASE_VARIABLE in env or env.get(SIMULATED_VARIABLE) == "1"
    if is_child and entries is not None:
        shown = [int(entry) for entry in entries if entry.isdecimal() and int(entry) < len(cards)]
    return tuple(_simulated(index, card, *cards[card]) for index, card in enumerate(shown))


def _parse(text: str) -> list[tuple[int | None, str]]:
    """Return the memory in MiB and the model of each card."""
    cards = [card for part in text.split(",") for card in _parse_part(part)]
    if not 1 <= len(cards) <= _MAX_DEVICES or not all(map(_parse_part, text.split(","))):
        raise ConfigError(
            f"{SIMULATE_VARIABLE}={text!r} is not understood: write a number of GPUs and the "
            'memory of each, as in "4x80GiB" (GiB, GB, MiB or MB), or the number alone; a model '
            'may follow, and more of another, as in "2x80GiB:A100,1x24GiB:RTX 4090"'
        )
    return cards


def _parse_part(text: str) -> list[tuple[int | None, str]]:
    """Return the cards of one part; none if it is not understood."""
    what, colon, model = text.partition(":")
    model = " ".join(model.split())
    match = re.fullmatch(
        r"([0-9]{1,4})(?:x([0-9]{1,6}(?:\.[0-9]{1,3})?)([a-z]+))?", what.lower().replace(" ", "")
    )
    if not match or (colon and not re.search("[A-Za-z0-9]", model)):
        return []
    if match[2] is None:
        return [(None, model)] * int(match[1])
    if match[3] not in _MIB_PER_UNIT:
        return []
    return [(round(float(match[2]) * _MIB_PER_UNIT[match[3]]), model)] * int(match[1])


def _simulated(index: int, card: int, memory_mib: int | None, model: str) -> Device:
    return Device(
        name=f"{CUDA}:{index}",
        kind=CUDA,
        index=index,
        uuid=f"SIM-{card}",
        memory_mib=memory_mib,
        model_name=f"simulated {model}" if model else NO_MODEL,
        visible_id=str(card),
        simulated=True,
    )
