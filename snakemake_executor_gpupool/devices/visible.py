"""What ``CUDA_VISIBLE_DEVICES`` and its kin mean, read from a parent and written for a child. Pure.

On ROCm, ``ROCR_VISIBLE_DEVICES`` is applied first and ``HIP_VISIBLE_DEVICES`` then
counts within what is left. Setting both to the same numbers would therefore select
twice, so a child gets only ``HIP_VISIBLE_DEVICES``, and a ``ROCR_VISIBLE_DEVICES``
that the user has set stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from snakemake_executor_gpupool.devices.model import CUDA, Device

SIMULATED_VARIABLE = "GPUPOOL_SIMULATED"
"""Set to 1 for a child that holds simulated GPUs: its ``CUDA_VISIBLE_DEVICES`` names those."""

# HIP has no documented meaning for an empty list; a negative number ends the list.
_NO_HIP_DEVICE = "-1"


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
    env = {"CUDA_VISIBLE_DEVICES": tokens, "HIP_VISIBLE_DEVICES": tokens or _NO_HIP_DEVICE}
    if any(device.simulated for device in cards):
        env[SIMULATED_VARIABLE] = "1"
    elif cards:
        # The driver's numbers, which the probe saw, follow the bus; CUDA's own
        # default puts the fastest card first.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env
