"""NVIDIA's cards, whole or as MIG slices: found through NVML, shown through variables. Pure.

``NVIDIA_VISIBLE_DEVICES`` is what container runtimes read. AMD's HIP reads ``CUDA_VISIBLE_DEVICES``
as well, where its own variable says nothing; :mod:`~.rocm` sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snakemake_executor_gpupool.devices import nvml
from snakemake_executor_gpupool.devices.cards import CUDA, visible_entries
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_kind import DeviceKind, ProbeResult, System

# What container runtimes take for "no GPU", where an empty value can mean "as by default".
_NO_CONTAINER_DEVICE = "void"


class CudaKind(DeviceKind):
    """NVIDIA's cards."""

    word = CUDA
    tool_word = "cuda"
    maker = "nvidia"
    container_flag = "--nv"

    def why_single(self, device: Device) -> str:
        """Say that CUDA shows a process one MIG slice, so that two are never two."""
        return "a process can use only one MIG slice" if device.is_mig else ""

    def shown(self, devices: Sequence[Device]) -> dict[str, str | None]:
        """Return the variables that show a process exactly these cards."""
        tokens = ",".join(device.visible_id for device in devices)
        env: dict[str, str | None] = {
            "CUDA_VISIBLE_DEVICES": tokens,
            "NVIDIA_VISIBLE_DEVICES": container_ids(devices) or _NO_CONTAINER_DEVICE,
        }
        if not any(device.simulated for device in devices):
            # The driver's numbers, which the probe saw, follow the bus; CUDA's own default puts
            # the fastest card first.
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return env

    def hidden(self) -> dict[str, str]:
        """Return the variables that hide all cards from a process."""
        return {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": _NO_CONTAINER_DEVICE}

    def find(self, env: Mapping[str, str], system: System) -> ProbeResult:
        """Find the cards that ``CUDA_VISIBLE_DEVICES`` leaves to this process."""
        if visible_entries(env) == []:
            value = env["CUDA_VISIBLE_DEVICES"]
            return ProbeResult((), (), f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU")
        library = _nvml(system)
        if library is None:
            return ProbeResult((), (), "the Python package nvidia-ml-py is not installed")
        return ProbeResult(*nvml.find_cards(env, library, system.sleep))

    def memory_used_mib(self, device: Device, system: System) -> int | None:
        """Return the memory in use on a card, by anybody; None if NVML does not report it."""
        library = _nvml(system)
        return None if library is None else nvml.memory_used_mib(device, library)

    def memory_by_pid(self, device: Device, system: System) -> dict[int, int | None]:
        """Return the MiB of each process that computes on a card, as far as NVML reports it."""
        library = _nvml(system)
        return {} if library is None else nvml.memory_by_pid(device, library)

    def energy_j(self, device: Device, system: System) -> float | None:
        """Return the joules that a card has used, as far as NVML reports it."""
        library = _nvml(system)
        return None if library is None else nvml.energy_j(device, library)

    def driver(self, system: System) -> str:
        """Return the version of NVIDIA's driver."""
        library = _nvml(system)
        return "" if library is None else nvml.driver_version(library)


def _nvml(system: System) -> nvml.Nvml | None:
    library: nvml.Nvml | None = system.library("pynvml")
    return library


def container_ids(cards: Sequence[Device]) -> str:
    """Return ``NVIDIA_VISIBLE_DEVICES``: a container runtime counts all cards of the machine."""
    return ",".join(card.visible_id if card.simulated else card.uuid for card in cards)
