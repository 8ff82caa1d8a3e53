"""What a worker process is told by environment variables, beside those that it inherits. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import computes_on_cpu
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.tool_api.reproducible import NUMERIC_VARIABLES, THREADS_VARIABLES
from snakemake_executor_gpupool.wire.requests import ToolRef

# glibc gives every freed activation back to the kernel and faults it in again on the next
# batch; keeping it cut a CPU worker's time by a third (docs/benchmarks.md).
CPU_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(64 * 1024**3)}


def worker_variables(
    worker_id: str, tool: ToolRef, devices: Sequence[Device], threads: int
) -> dict[str, str]:
    """Return the variables of a worker.

    Parameters
    ----------
    threads
        How many threads it may use if it computes on the CPU.
    """
    variables = visible_env(devices)
    variables |= {"GPUPOOL_WORKER": worker_id, "GPUPOOL_ENVIRONMENT": tool.environment}
    variables |= tool.mode.variables()
    if tool.container is not None:
        variables["GPUPOOL_CONTAINER"] = tool.container.name
        variables["GPUPOOL_FILE_DIGESTS"] = tool.container.notes
    if all(map(computes_on_cpu, devices)):
        variables |= dict.fromkeys(THREADS_VARIABLES, str(threads if devices else 1))
        variables |= CPU_MALLOC
    if tool.mode.is_reproducible:
        variables |= NUMERIC_VARIABLES
    return variables
