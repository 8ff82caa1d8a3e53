"""``gpupool devices``: every device, who holds it, and whether the pool manages it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from snakemake_executor_gpupool.devices.device import Device, device_key
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.probe import (
    Nvml,
    ProbeResult,
    compute_pids,
    memory_used_mib,
    probe,
)
from snakemake_executor_gpupool.devices.settings import DeviceOptions, resolve
from snakemake_executor_gpupool.errors import DeviceLost

_COLUMNS = ("device", "name", "memory used/total MiB", "held by", "managed", "uuid")


@dataclass(frozen=True)
class Row:
    """One device as the listing shows it; figures that are not known are None."""

    device: str
    index: int
    name: str
    uuid: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    holder: str | None
    managed: bool
    simulated: bool
    exclusive_process: bool
    mig: bool

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the table, as in ``_COLUMNS``."""
        notes = [
            note
            for note, holds in (
                ("SIMULATED", self.simulated),
                ("exclusive process", self.exclusive_process),
                ("MIG", self.mig),
            )
            if holds
        ]
        name = f"{self.name} ({', '.join(notes)})" if notes else self.name
        memory = f"{_figure(self.memory_used_mib)} / {_figure(self.memory_total_mib)}"
        managed = "yes" if self.managed else "no"
        return self.device, name, memory, self.holder or "-", managed, self.uuid or "-"


def _figure(value: int | None) -> str:
    return "-" if value is None else str(value)


def list_devices(
    as_json: bool,
    env: Mapping[str, str],
    nvml: Nvml | None = None,
    options: DeviceOptions | None = None,
) -> str:
    """Return the text that ``gpupool devices`` prints.

    Parameters
    ----------
    as_json
        As ``{"devices": [...], "notes": [...]}`` instead of a table.
    env
        The environment.
    nvml
        The NVML library; None: the real one.
    options
        Device options beyond those of the environment.

    Raises
    ------
    ConfigError
        A variable is malformed, or names a device that does not exist.
    """
    probed = probe(env, nvml)
    managed = resolve(env, configured=options).choose(probed.devices)
    rows = device_rows(probed, managed, env, nvml)
    notes = [*probed.warnings, *([f"no GPU: {probed.why_none}"] if probed.why_none else [])]
    if as_json:
        return json.dumps({"devices": [asdict(row) for row in rows], "notes": notes}, indent=2)
    return "\n".join([_table([row.cells() for row in rows]), *(f"note: {note}" for note in notes)])


def device_rows(
    probed: ProbeResult, managed: Sequence[Device], env: Mapping[str, str], nvml: Nvml | None = None
) -> list[Row]:
    """Return one row per device: those found, and the managed CPU slots."""
    every = {device.name: device for device in (*probed.devices, *managed)}
    ours = {device.name for device in managed}
    locks = DeviceLocks(env) if any(device.uuid for device in every.values()) else None
    try:
        return [
            _row(device, device.name in ours, locks, nvml)
            for device in sorted(every.values(), key=device_key)
        ]
    finally:
        if locks is not None:
            locks.close()


def _row(device: Device, managed: bool, locks: DeviceLocks | None, nvml: Nvml | None) -> Row:
    try:
        used_mib = memory_used_mib(device, nvml)
        holder = _holder(device, locks, nvml)
    except DeviceLost as error:
        used_mib, holder = None, str(error)
    return Row(
        device=device.name,
        index=device.index,
        name=device.model_name,
        uuid=device.uuid,
        memory_used_mib=used_mib,
        memory_total_mib=device.memory_mib,
        holder=holder,
        managed=managed,
        simulated=device.simulated,
        exclusive_process=device.exclusive_process,
        mig=device.is_mig,
    )


def _holder(device: Device, locks: DeviceLocks | None, nvml: Nvml | None) -> str | None:
    """Return who holds a device: a run of gpupool, else the processes that compute on it."""
    if not is_gpu(device):
        return None
    if locks is not None and locks.is_held(device):
        return f"gpupool (process {locks.holder_pid(device) or 'unknown'})"
    pids = compute_pids(device, nvml)
    return f"process {', '.join(map(str, pids))}" if pids else None


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
