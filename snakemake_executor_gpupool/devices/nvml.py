"""What GPUs there are: the only module that touches NVML.

NVML is the driver's library for looking at cards without using them: nothing
here makes a CUDA context. The library object is a parameter, so that a fake one
can stand in for it; without one, ``nvidia-ml-py`` is imported on first use.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from snakemake_executor_gpupool.devices.cards import Card, Inventory, select_visible
from snakemake_executor_gpupool.devices.device import CUDA, Device
from snakemake_executor_gpupool.devices.simulate import SIMULATE_VARIABLE, simulated_devices
from snakemake_executor_gpupool.devices.visibility import visible_entries
from snakemake_executor_gpupool.errors import DeviceLost

RETRY_DELAYS_S = (0.2, 1.0)
FOREIGN_MEMORY_MIB = 2048
"""A card with more memory in use than this, and nothing of ours on it, is used by somebody else.

Below it are the driver's own reserve and a desktop's windows.
"""

_MIB = 2**20
_MIG_ENABLED = 1
_PROHIBITED, _EXCLUSIVE_PROCESS = 2, 3
# NVML's error codes, by what they mean for us.
_NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND, _FUNCTION_NOT_FOUND = 3, 4, 6, 13
_NO_LIBRARY, _NO_DRIVER, _MISMATCH = 12, 9, 18
_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND = 15, 16, 28
_PERMANENT = {
    _NO_LIBRARY: "no NVIDIA driver is installed (NVML's library is not found)",
    _NO_DRIVER: "the NVIDIA driver is installed but not loaded: no card, or try `nvidia-smi`",
    _MISMATCH: (
        "the NVIDIA driver was updated while it was loaded, and its library no longer fits it: "
        "reboot, or reload the driver's kernel modules"
    ),
    _NO_PERMISSION: "this user may not talk to the NVIDIA driver",
}

T = TypeVar("T")


class Nvml(Protocol):
    """The part of ``pynvml`` that is used here; errors carry their code in ``value``."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> Any: ...  # noqa: D102, N802 - NVML's own names, for the whole class
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetComputeMode(self, handle: Any) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: D102, N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: D102, N802
        self, handle: Any, index: int
    ) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Any: ...  # noqa: D102, N802


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found.

    Parameters
    ----------
    devices
        The visible and usable GPUs, in numeric order.
    warnings
        What a user should be told once.
    why_none
        Why there is no GPU, if there is none.
    """

    devices: tuple[Device, ...]
    warnings: tuple[str, ...] = ()
    why_none: str = ""


def probe(
    env: Mapping[str, str],
    nvml: Nvml | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> ProbeResult:
    """Find the GPUs that this process may use.

    Parameters
    ----------
    env
        The environment; ``CUDA_VISIBLE_DEVICES`` and ``GPUPOOL_SIMULATE`` count.
    nvml
        The NVML library; None: the real one.
    sleep
        Called between tries when NVML fails.

    Raises
    ------
    ConfigError
        ``GPUPOOL_SIMULATE`` is malformed.
    """
    simulated = simulated_devices(env)
    if simulated or env.get(SIMULATE_VARIABLE, "").strip():
        note = f"{len(simulated)} simulated GPUs ({SIMULATE_VARIABLE}): all work runs on the CPU"
        return ProbeResult(simulated, (note,))
    if visible_entries(env) == []:
        value = env["CUDA_VISIBLE_DEVICES"]
        return ProbeResult((), (), f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU")
    library = nvml or _import_nvml()
    if library is None:
        return ProbeResult((), (), "the Python package nvidia-ml-py is not installed")
    return _probe_library(env, library, sleep)


def _probe_library(
    env: Mapping[str, str], library: Nvml, sleep: Callable[[float], object]
) -> ProbeResult:
    try:
        inventory = _retrying(lambda: _take_inventory(library), library, sleep)
    except library.NVMLError as error:
        why = _PERMANENT.get(_code(error), f"NVML failed {len(RETRY_DELAYS_S) + 1} times: {error}")
        # A machine without any driver is an ordinary one; a broken driver is news.
        news = () if _code(error) == _NO_LIBRARY else (f"no GPU is used: {why}",)
        return ProbeResult((), news, why)
    devices, warnings = select_visible(inventory, env)
    return ProbeResult(devices, warnings, "" if devices else _why_none(inventory, env))


def _why_none(inventory: Inventory, env: Mapping[str, str]) -> str:
    if not inventory.cards and not inventory.unusable:
        return "the NVIDIA driver reports no GPU"
    if inventory.cards and visible_entries(env) is not None:
        return f"CUDA_VISIBLE_DEVICES={env['CUDA_VISIBLE_DEVICES']} names no usable GPU"
    return "no GPU is usable"


def _import_nvml() -> Any:
    """Return the real library, or None where its Python package is missing."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _retrying(action: Callable[[], T], library: Nvml, sleep: Callable[[float], object]) -> T:
    """Do it, and again after each delay as long as NVML fails in a way that may pass."""
    for delay_s in RETRY_DELAYS_S:
        try:
            return action()
        except library.NVMLError as error:
            if _code(error) in _PERMANENT:
                raise
            sleep(delay_s)
    return action()


def _code(error: Exception) -> int:
    return int(getattr(error, "value", 999))


# --- reading the cards


def _take_inventory(library: Nvml) -> Inventory:
    """Read all cards. A broken one is noted and does not hide the others."""
    library.nvmlInit()  # counted by NVML: cheap when done before, and never undone here
    cards: dict[int, Card] = {}
    unusable: dict[int, str] = {}
    for index in range(library.nvmlDeviceGetCount()):
        try:
            cards[index] = _read_card(library, library.nvmlDeviceGetHandleByIndex(index), index)
        except library.NVMLError as error:
            if _code(error) not in (_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND, _NO_PERMISSION):
                raise
            unusable[index] = _why_unusable(error)
    return Inventory(cards, unusable)


def _why_unusable(error: Exception) -> str:
    return {
        _LOST: "it fell off the bus; the machine needs a reboot, or the card a reset",
        _RESET_REQUIRED: "it needs a reset",
        _GPU_NOT_FOUND: "the driver no longer finds it",
        _NO_PERMISSION: "this user may not use it",
    }[_code(error)]


def _read_card(library: Nvml, handle: Any, index: int) -> Card:
    mode = _optional(library, lambda: library.nvmlDeviceGetComputeMode(handle), 0)
    mig = _optional(library, lambda: library.nvmlDeviceGetMigMode(handle)[0], 0) == _MIG_ENABLED
    return Card(
        index=index,
        uuid=_text(library.nvmlDeviceGetUUID(handle)),
        model_name=_text(library.nvmlDeviceGetName(handle)),
        memory_mib=_memory_mib(library, handle, "total"),
        exclusive_process=mode == _EXCLUSIVE_PROCESS,
        prohibited=mode == _PROHIBITED,
        slices=_read_slices(library, handle, index) if mig else None,
    )


def _read_slices(library: Nvml, handle: Any, index: int) -> tuple[Card, ...]:
    """Read the MIG slices of a card."""
    slices = []
    for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _read_slice(library, handle, number)
        if part is not None:  # they need not be numbered without gaps
            uuid = _text(library.nvmlDeviceGetUUID(part))
            name = _text(library.nvmlDeviceGetName(part))
            slices.append(Card(index, uuid, name, _memory_mib(library, part, "total")))
    return tuple(slices)


def _read_slice(library: Nvml, handle: Any, number: int) -> Any:
    return _optional(
        library, lambda: library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number), None
    )


def _optional(library: Nvml, read: Callable[[], T], default: T) -> T:
    """Return what is read, or the default where this card or driver has no such thing."""
    try:
        return read()
    except library.NVMLError as error:
        if _code(error) not in (_NOT_SUPPORTED, _NOT_FOUND, _FUNCTION_NOT_FOUND):
            raise
        return default


def _memory_mib(library: Nvml, handle: Any, field: str) -> int | None:
    info = _optional(library, lambda: library.nvmlDeviceGetMemoryInfo(handle), None)
    return None if info is None else int(getattr(info, field)) // _MIB


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# --- looking at one device again


def memory_used_mib(device: Device, nvml: Nvml | None = None) -> int | None:
    """Return the memory in use on a device, by anybody; None if that cannot be known.

    Raises
    ------
    DeviceLost
        The card is gone.
    """
    return _look(device, nvml, lambda library, handle: _memory_mib(library, handle, "used"))


def memory_by_pid(device: Device, nvml: Nvml | None = None) -> dict[int, int | None]:
    """Return the MiB of each process that computes on a device, as far as NVML tells.

    In a container the driver may give ids of the host, or none; a process whose memory it
    keeps to itself has None.

    Raises
    ------
    DeviceLost
        The card is gone.
    """

    def read(library: Nvml, handle: Any) -> dict[int, int | None]:
        running: Any = _optional(
            library, lambda: library.nvmlDeviceGetComputeRunningProcesses(handle), ()
        )
        used = {int(process.pid): process.usedGpuMemory for process in running}
        return {pid: None if size is None else int(size) // _MIB for pid, size in used.items()}

    return _look(device, nvml, read) or {}


def compute_pids(device: Device, nvml: Nvml | None = None) -> tuple[int, ...]:
    """Return the ids of the processes that compute on a device, as :func:`memory_by_pid` does.

    Raises
    ------
    DeviceLost
        The card is gone.
    """
    return tuple(sorted(memory_by_pid(device, nvml)))


def _look(device: Device, nvml: Nvml | None, read: Callable[[Nvml, Any], T]) -> T | None:
    """Read something of a real card; None for other devices and on passing errors."""
    library = nvml or _import_nvml()
    if device.kind != CUDA or device.simulated or library is None:
        return None
    try:
        library.nvmlInit()
        return read(library, library.nvmlDeviceGetHandleByUUID(device.uuid))
    except library.NVMLError as error:
        if _code(error) in (_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND):
            raise DeviceLost(f"{device.name} ({device.uuid}): {_why_unusable(error)}") from error
        return None


def filled_by_others(device: Device, nvml: Nvml | None = None, ours: Collection[int] = ()) -> bool:
    """Whether somebody else's work fills a device.

    Parameters
    ----------
    device, nvml
        Which device, and how to look at it.
    ours
        Process ids; the device counts as ours as long as one of them computes there.

    Raises
    ------
    DeviceLost
        The card is gone.
    """
    used_mib = memory_used_mib(device, nvml)
    if used_mib is None or used_mib <= FOREIGN_MEMORY_MIB:
        return False
    return not set(ours) & set(compute_pids(device, nvml))
