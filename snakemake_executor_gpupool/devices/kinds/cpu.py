"""The machine itself, as places for workers that share its cores. Pure."""

from __future__ import annotations

from snakemake_executor_gpupool.devices.device import CPU
from snakemake_executor_gpupool.devices.device_kind import DeviceKind


class CpuKind(DeviceKind):
    """CPU slots. Nothing shows or hides them, and nothing has to be found."""

    word = CPU
    tool_word = "cpu"
    is_host = True
