"""What ``CUDA_VISIBLE_DEVICES`` and its kin mean, read from a parent and written for a child. Pure.

On ROCm, ``ROCR_VISIBLE_DEVICES`` is applied first and ``HIP_VISIBLE_DEVICES`` then
counts within what is left. Setting both to the same numbers would therefore select
twice, so a child that has devices gets only ``HIP_VISIBLE_DEVICES``, and a
``ROCR_VISIBLE_DEVICES`` that the user has set stays as it is. A child without
devices gets an empty one. ``NVIDIA_VISIBLE_DEVICES`` is what container runtimes read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from snakemake_executor_gpupool.devices.device import CUDA, Device

SIMULATED_VARIABLE = "GPUPOOL_SIMULATED"
"""Set to 1 for a child that holds simulated GPUs: its ``CUDA_VISIBLE_DEVICES`` names those."""

LEASE_VARIABLE = "GPUPOOL_LEASE"
"""Set for every child: which of its parent's locks are lent to it; empty: none."""

ROCR = "ROCR_VISIBLE_DEVICES"

# HIP has no documented meaning for an empty list; a negative number ends the list.
_NO_HIP_DEVICE = "-1"
# What container runtimes take for "no GPU", where an empty value can mean "as by default".
_NO_CONTAINER_DEVICE = "void"
# They count within what the parent sees, and would name other cards in a child, or none.
_COUNTED_BY_THE_PARENT = ("GPUPOOL_MANAGED_DEVICES", "BIO_TOOLS_MANAGED_DEVICES")


def visible_entries(env: Mapping[str, str]) -> list[str] | None:
    """Return the entries of ``CUDA_VISIBLE_DEVICES``; None if it is not set.

    As in CUDA, the list ends at the first entry that is empty or negative.
    """
    value = env.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries = (part.strip() for part in value.split(","))
    return list(itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries))


def visible_env(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables that show a child exactly these devices.

    Parameters
    ----------
    devices
        What the child holds. Without a GPU among them, the child sees none: a
        card that is not managed must not be touched by any path.
    """
    cards = [device for device in devices if device.kind == CUDA]
    tokens = ",".join(device.visible_id for device in cards)
    env = {
        "CUDA_VISIBLE_DEVICES": tokens,
        "HIP_VISIBLE_DEVICES": tokens or _NO_HIP_DEVICE,
        "NVIDIA_VISIBLE_DEVICES": container_ids(cards) or _NO_CONTAINER_DEVICE,
        LEASE_VARIABLE: "",
        **dict.fromkeys(_COUNTED_BY_THE_PARENT, ""),
    }
    if not cards:
        env[ROCR] = ""
    elif any(device.simulated for device in cards):
        env[SIMULATED_VARIABLE] = "1"
    else:
        # The driver's numbers, which the probe saw, follow the bus; CUDA's own
        # default puts the fastest card first.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def container_ids(cards: Sequence[Device]) -> str:
    """Return ``NVIDIA_VISIBLE_DEVICES``: a container runtime counts all cards of the machine."""
    return ",".join(card.visible_id if card.simulated else card.uuid for card in cards)
