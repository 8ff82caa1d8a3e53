"""Devices that a plan is made for, though they need not be there. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.kinds import gpus_among
from snakemake_executor_gpupool.devices.simulate import (
    NO_MODEL,
    SIMULATE_VARIABLE,
    simulated_devices,
)
from snakemake_executor_gpupool.errors import ConfigError

GRAMMAR = (
    'a number (so many of the kind that the pool has), "cpu:N" (N CPU workers), or a number of '
    'GPUs and the memory of each, as in "4x80GiB" or "2x80GiB:A100"'
)
MAX_DEVICES = 1024


def assumed_devices(text: str, here: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices that ``--devices`` asks a plan for.

    Parameters
    ----------
    here
        Those that the run would have: others of their kind are taken to be like them.

    Raises
    ------
    ConfigError
        The text is malformed.
    """
    match = re.fullmatch(r"\s*(cpu:)?([0-9]{1,4})\s*", text)
    gpus = gpus_among(here)
    if match:
        count = int(match[2])
        if not 1 <= count <= MAX_DEVICES:
            raise ConfigError(f"--devices {text}: from 1 to {MAX_DEVICES}")
        if match[1] or not gpus:
            return tuple(map(cpu_slot, range(count)))
        cards = [_like(gpus[0], index) for index in range(count)]
        return (*cards, cpu_slot(0))
    try:
        cards = list(simulated_devices({SIMULATE_VARIABLE: text}))
    except ConfigError:
        raise ConfigError(f"--devices {text!r} is not understood: {GRAMMAR}") from None
    if not cards:
        raise ConfigError(f"--devices {text!r} is not understood: {GRAMMAR}")
    if gpus:
        like = gpus[0].model_name
        cards = [replace(c, model_name=like) if c.model_name == NO_MODEL else c for c in cards]
    return (*cards, cpu_slot(0))


def _like(card: Device, index: int) -> Device:
    name = f"{card.kind}:{index}"
    return replace(card, name=name, index=index, uuid=f"plan-{index}", visible_id=str(index))
