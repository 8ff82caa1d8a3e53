"""The variables by which a child process sees exactly the devices that it holds. Pure.

What shows or hides the devices of a kind is the kind's to say (:mod:`~.kinds`); here the kinds
are put together, with what holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import KINDS, gpu_kinds, gpus_among

SIMULATED_VARIABLE = "GPUPOOL_SIMULATED"
"""Set to 1 for a child that holds simulated GPUs: its ``CUDA_VISIBLE_DEVICES`` names those."""

LEASE_VARIABLE = "GPUPOOL_LEASE"
"""Set for every child: which of its parent's locks are lent to it; empty: none."""

CONTAINER_PREFIXES = ("APPTAINERENV_", "SINGULARITYENV_")
"""A variable of such a name reaches the inside of a container in any case: with ``--cleanenv`` as
well, and before what the image sets."""

# They count within what the parent sees, and would name other cards in a child, or none.
_COUNTED_BY_THE_PARENT = ("GPUPOOL_MANAGED_DEVICES", "BIO_TOOLS_MANAGED_DEVICES")


def visible_env(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables that show a child exactly these devices.

    Parameters
    ----------
    devices
        What the child holds. It sees no GPU of a kind that is not among them: a card that is not
        managed must not be touched by any path, and not from inside a container either.
    """
    # The lease is added by who grants it; what stands here must not hide it in a container.
    lease = {LEASE_VARIABLE: ""}
    return {**lease, **also_in_containers(_visible(devices)), **container_options(devices)}


def also_in_containers(variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables, with those by which Apptainer and Singularity set them in a container."""
    inside = {
        f"{prefix}{name}": value
        for prefix in CONTAINER_PREFIXES
        for name, value in variables.items()
    }
    return {**variables, **inside}


def container_options(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables by which containers get the drivers of these devices, as by ``--nv``."""
    flags = [flag.lstrip("-").upper() for flag in container_flags(devices)]
    programs = ("APPTAINER", "SINGULARITY")
    return {f"{program}_{flag}": "1" for program in programs for flag in flags}


def container_flags(devices: Sequence[Device]) -> list[str]:
    """Return the options of Apptainer by which a container gets the drivers of these devices."""
    held = sorted({device.kind for device in gpus_among(devices)})
    return [KINDS[word].container_flag for word in held if KINDS[word].container_flag]


def _visible(devices: Sequence[Device]) -> dict[str, str]:
    gpus = gpus_among(devices)
    held = {device.kind for device in gpus}
    env: dict[str, str | None] = dict.fromkeys(_COUNTED_BY_THE_PARENT, "")
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
    hidden = {name: value for name, value in _visible(()).items() if name not in left}
    return {LEASE_VARIABLE: "", **also_in_containers(hidden)}
