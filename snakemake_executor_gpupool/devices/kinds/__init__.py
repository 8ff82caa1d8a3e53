"""The kinds of device that there are, and what the rest of the package asks of them. Pure.

Whether something is a GPU, which variable shows it, what a tool calls it: all of it is asked
here. A new kind is a module beside this one and one entry of :data:`KINDS`
(docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from snakemake_executor_gpupool.devices.card_wish import maker_in
from snakemake_executor_gpupool.devices.cards import CUDA
from snakemake_executor_gpupool.devices.device import CPU, Device
from snakemake_executor_gpupool.devices.device_kind import DeviceKind
from snakemake_executor_gpupool.devices.kinds.cpu import CpuKind
from snakemake_executor_gpupool.devices.kinds.cuda import CudaKind
from snakemake_executor_gpupool.devices.kinds.rocm import RocmKind

__all__ = ["ANY_GPU", "CPU", "KINDS", "DeviceKind"]

#: By the word of each kind, in the order in which messages name them.
KINDS: dict[str, DeviceKind] = {kind.word: kind for kind in (CpuKind(), CudaKind(), RocmKind())}

ANY_GPU = CUDA
"""What ``gpu=N``, a number of GPUs, asks for: this kind, and every kind that also serves it."""


class OfAKind(Protocol):
    """A device, or a request for some."""

    @property
    def kind(self) -> str:
        """The word of its kind."""


def kind_of(thing: OfAKind) -> DeviceKind:
    """Return the kind of a device or a request."""
    return KINDS[thing.kind]


def gpu_kinds() -> list[DeviceKind]:
    """Return all kinds but the machine itself."""
    return [kind for kind in KINDS.values() if not kind.is_host]


def is_gpu(thing: OfAKind) -> bool:
    """Tell whether a device, or what a request is for, is anything but the machine itself."""
    return not KINDS[thing.kind].is_host


def maker_of(device: Device) -> str:
    """Return who makes a device; a simulated one is by whom its name says."""
    simulated = maker_in(device.model_name) if device.simulated else ""
    return simulated or kind_of(device).maker


def gpus_among(devices: Iterable[Device]) -> list[Device]:
    """Return the GPUs among some devices."""
    return [device for device in devices if is_gpu(device)]


def computes_on_cpu(device: Device) -> bool:
    """Tell whether what is placed on a device computes on the CPU: on a slot, or simulated."""
    return device.simulated or not is_gpu(device)


def real_gpus(devices: Iterable[Device]) -> list[Device]:
    """Return the GPUs among some devices that are not simulated."""
    return [device for device in devices if not computes_on_cpu(device)]


def tool_device(devices: Sequence[Device]) -> str:
    """Return what a tool loads on; a worker sees its own devices only, counted from 0.

    Examples
    --------
    >>> tool_device([Device("cuda:6", "cuda", 6), Device("cuda:7", "cuda", 7)])
    'cuda:0,cuda:1'
    >>> tool_device([])
    'cpu'
    """
    words = [kind_of(device).tool_word for device in real_gpus(devices)]
    return ",".join(f"{word}:{number}" for number, word in enumerate(words)) or KINDS[CPU].tool_word


def kinds_for_tool(tool_word: str, among: Iterable[str]) -> list[str]:
    """Return which of some kinds a tool can use that names ``tool_word`` among its devices."""
    return sorted(kind for kind in among if KINDS[kind].tool_word == tool_word)
