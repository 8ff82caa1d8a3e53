"""The variables by which a child process sees exactly the devices that it holds. Pure.

What shows or hides the devices of a kind is the kind's to say (:mod:`~.kinds`); here the kinds
are put together, with what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import KINDS, gpu_kinds, gpus_among

SIMULATED_VARIABLE = "GPUPOOL_SIMULATED"
"""Set to 1 for a child that holds simulated GPUs: its ``CUDA_VISIBLE_DEVICES`` names those."""

LEASE_VARIABLE = "GPUPOOL_LEASE"
"""Set for every child: which of its parent's locks are lent to it; empty: none."""

# They count within what the parent sees, and would name other cards in a child, or none.
_COUNTED_BY_THE_PARENT = ("GPUPOOL_MANAGED_DEVICES", "BIO_TOOLS_MANAGED_DEVICES")


def visible_env(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables that show a child exactly these devices.

    Parameters
    ----------
    devices
        What the child holds. It sees no GPU of a kind that is not among them: a card that is not
        managed must not be touched by any path.
    """
    gpus = gpus_among(devices)
    held = {device.kind for device in gpus}
    env: dict[str, str | None] = {LEASE_VARIABLE: "", **dict.fromkeys(_COUNTED_BY_THE_PARENT, "")}
    # One variable may be read by the drivers of two kinds: the kind that is held has the say.
    for kind in gpu_kinds():
        if kind.word not in held:
            env.update(kind.hidden())
    for word in sorted(held):
        env.update(KINDS[word].shown([device for device in gpus if device.kind == word]))
    if any(device.simulated for device in gpus):
        env[SIMULATED_VARIABLE] = "1"
    return {name: value for name, value in env.items() if value is not None}


def env_of_parent(children: Iterable[Device]) -> dict[str, str]:
    """Return the variables of a process that sees no device, and starts some that see these.

    What a child with devices leaves as the user has set it, its parent must not hide by.
    """
    left: set[str] = set()
    for word in {device.kind for device in children}:
        left |= KINDS[word].stays_hidden
    return {name: value for name, value in visible_env(()).items() if name not in left}
