"""NVIDIA's cards as NVML reports them; nothing here makes a CUDA context. Pure.

NVML is the driver's library for looking at cards without using them. The library object is an
argument, so that a fake one can stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from snakemake_executor_gpupool.devices.cards import (
    Card,
    Inventory,
    select_visible,
    visible_entries,
)
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import DeviceLost

RETRY_DELAYS_S = (0.2, 1.0)
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
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...  # noqa: D102, N802
    def nvmlSystemGetDriverVersion(self) -> str | bytes: ...  # noqa: D102, N802


def find_cards(
    env: Mapping[str, str], library: Nvml, sleep: Callable[[float], object]
) -> tuple[tuple[Device, ...], tuple[str, ...], str]:
    """Return the usable cards that the environment shows, warnings, and why there is none.

    Parameters
    ----------
    env
        The environment; ``CUDA_VISIBLE_DEVICES`` counts.
    library
        The NVML library.
    sleep
        Called with seconds between tries when NVML fails in a way that may pass.
    """
    try:
        inventory = _retrying(lambda: _take_inventory(library), library, sleep)
    except library.NVMLError as error:
        why = _PERMANENT.get(_code(error), f"NVML failed {len(RETRY_DELAYS_S) + 1} times: {error}")
        # A machine without any driver is an ordinary one; a broken driver is news.
        news = () if _code(error) == _NO_LIBRARY else (f"no GPU is used: {why}",)
        return (), news, why
    devices, warnings = select_visible(inventory, env)
    return devices, warnings, "" if devices else _why_none(inventory, env)


def _why_none(inventory: Inventory, env: Mapping[str, str]) -> str:
    if not inventory.cards and not inventory.unusable:
        return "the NVIDIA driver reports no GPU"
    if inventory.cards and visible_entries(env) is not None:
        return f"CUDA_VISIBLE_DEVICES={env['CUDA_VISIBLE_DEVICES']} names no usable GPU"
    return "no GPU is usable"


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
    """Return what is read, or the default where this card or driver does not support it."""
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


# --- looking at one card again


def memory_used_mib(device: Device, library: Nvml) -> int | None:
    """Return the memory in use on a card, by anybody; None if NVML does not report it.

    Raises
    ------
    DeviceLost
        The card is gone.
    """
    return _look(device, library, lambda handle: _memory_mib(library, handle, "used"))


def memory_by_pid(device: Device, library: Nvml) -> dict[int, int | None]:
    """Return the MiB of each process that computes on a card, as far as NVML reports it.

    In a container the driver may give ids of the host, or none; a process whose memory it
    keeps to itself has None.

    Raises
    ------
    DeviceLost
        The card is gone.
    """

    def read(handle: Any) -> dict[int, int | None]:
        running: Any = _optional(
            library, lambda: library.nvmlDeviceGetComputeRunningProcesses(handle), ()
        )
        used = {int(process.pid): process.usedGpuMemory for process in running}
        return {pid: None if size is None else int(size) // _MIB for pid, size in used.items()}

    return _look(device, library, read) or {}


def energy_j(device: Device, library: Nvml) -> float | None:
    """Return the joules that a card has used since its driver was loaded; None: unknown.

    The driver brings the number up to date some ten to fifty times a second. A slice of a card has
    none, nor have cards older than Volta.

    Raises
    ------
    DeviceLost
        The card is gone.
    """

    def read(handle: Any) -> float | None:
        used_mj: Any = _optional(
            library, lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle), None
        )
        return None if used_mj is None else float(used_mj) / 1e3

    return _look(device, library, read)


def driver_version(library: Nvml) -> str:
    """Return the version of the driver; empty if it cannot be asked."""
    try:
        library.nvmlInit()
        return _text(library.nvmlSystemGetDriverVersion())
    except library.NVMLError:
        return ""


def _look(device: Device, library: Nvml, read: Callable[[Any], T]) -> T | None:
    """Read something of a card; None on errors that may pass."""
    try:
        library.nvmlInit()
        return read(library.nvmlDeviceGetHandleByUUID(device.uuid))
    except library.NVMLError as error:
        if _code(error) in (_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND):
            raise DeviceLost(f"{device.name} ({device.uuid}): {_why_unusable(error)}") from error
        return None
