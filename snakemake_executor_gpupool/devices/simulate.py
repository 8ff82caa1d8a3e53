"""Simulated GPUs, for machines that have none. Pure.

``GPUPOOL_SIMULATE=4x80GiB`` is four GPUs of 80 GiB. What is placed on them
computes on the CPU; everything else (placement, eviction, leases, the children's
``CUDA_VISIBLE_DEVICES``) is as with real ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from snakemake_executor_gpupool.devices.cards import CUDA, visible_entries
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, SIMULATED_VARIABLE
from snakemake_executor_gpupool.errors import ConfigError

SIMULATE_VARIABLE = "GPUPOOL_SIMULATE"

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
    count, memory_mib = _parse(text)
    shown: list[int] = list(range(count))
    entries = visible_entries(env)
    is_child = LEASE_VARIABLE in env or env.get(SIMULATED_VARIABLE) == "1"
    if is_child and entries is not None:
        shown = [int(entry) for entry in entries if entry.isdecimal() and int(entry) < count]
    return tuple(_simulated(index, card, memory_mib) for index, card in enumerate(shown))


def _parse(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(
        r"([0-9]{1,4})(?:x([0-9]{1,6}(?:\.[0-9]{1,3})?)([a-z]+))?", text.lower().replace(" ", "")
    )
    if match and 1 <= int(match[1]) <= _MAX_DEVICES:
        if match[2] is None:
            return int(match[1]), None
        if match[3] in _MIB_PER_UNIT:
            return int(match[1]), round(float(match[2]) * _MIB_PER_UNIT[match[3]])
    raise ConfigError(
        f"{SIMULATE_VARIABLE}={text!r} is not understood: write a number of GPUs and the "
        'memory of each, as in "4x80GiB" (GiB, GB, MiB or MB), or the number alone'
    )


def _simulated(index: int, card: int, memory_mib: int | None) -> Device:
    return Device(
        name=f"{CUDA}:{index}",
        kind=CUDA,
        index=index,
        uuid=f"SIM-{card}",
        memory_mib=memory_mib,
        model_name="simulated GPU",
        visible_id=str(card),
        simulated=True,
    )
