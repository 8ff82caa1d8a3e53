"""How many devices the pool could use, for hosts that can get more. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from snakemake_executor_gpupool.devices.card_wish import CardWish


@dataclass(frozen=True)
class Demand:
    """What the pool could use.

    Attributes
    ----------
    devices
        How many devices: those that it has, and those that would pay.
    busy_hosts
        Machines on which something computes.
    cards
        Which cards those are to be that models and waiting jobs want, each with how many.
    leased
        The machine of each device that a job holds.
    """

    devices: int = 0
    busy_hosts: frozenset[str] = frozenset()
    cards: tuple[tuple[CardWish, int], ...] = ()
    leased: tuple[str, ...] = ()
