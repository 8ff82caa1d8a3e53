"""How many devices the pool could use, for hosts that can get more. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What the pool could use.

    Attributes
    ----------
    devices
        How many devices: those that it has, and those that would pay.
    busy_hosts
        Machines on which something computes.
    """

    devices: int = 0
    busy_hosts: frozenset[str] = frozenset()
