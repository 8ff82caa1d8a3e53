"""What a machine's host notes of each of its worker processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.process import ServedProcess
from snakemake_executor_gpupool.wire.requests import ToolRef

#: What comes before the end of a worker's log, where messages quote it.
QUOTED = "; the end of its log ("


@dataclass(eq=False)
class Running:
    """A worker process and what is to become of it."""

    process: ServedProcess
    devices: tuple[Device, ...]
    tool: ToolRef
    #: Tells whether a process, given its id, belongs to it.
    is_its: Callable[[int], bool]
    #: Its :data:`~.reaper.PROCESS_VARIABLE`.
    mark: str
    #: When to escalate (close, SIGTERM, SIGKILL) a process that is to end; None: it is not.
    next_step_s: float | None = None
    steps: int = 0
    expected: bool = False
    complaint: str = ""
    #: The selector tells when its channel takes more.
    is_watched_for_room: bool = False
    #: Its group's leader has ended; the reaper is clearing up what it left behind.
    is_over: bool = False


@dataclass(frozen=True)
class End:
    """Tells a process's descriptor from a channel's in the selector."""

    worker_id: str


def obituary(running: Running) -> str:
    """Return how a worker has ended, and what its log says last."""
    reason = running.process.describe_end()
    if running.complaint:
        reason = f"{running.complaint}, {reason}"
    words = running.process.last_words()
    if words:
        return f"{reason}{QUOTED}{running.process.log_path}):\n{words}"
    return f"{reason}; its log: {running.process.log_path}"
