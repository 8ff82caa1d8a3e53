"""A host on which nothing ever happens, for tests of the run loop itself."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.base import Carried, HostEvent, WorkerGone
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import ToolRef


class QuietHost:
    """Starts processes that say nothing; what it is asked is kept in ``asked``.

    Attributes
    ----------
    failing
        Names of methods that raise.
    events
        What the next ``poll`` returns.
    """

    def __init__(self) -> None:
        self.carried = Carried()
        self.asked: list[str] = []
        self.failing: set[str] = set()
        self.events: list[HostEvent] = []
        self._woken = threading.Event()

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.failing:
            raise OSError(f"{name} failed")

    def wake(self) -> None:
        self._woken.set()

    def poll(self, timeout_s: float) -> list[HostEvent]:
        self._woken.wait(min(timeout_s, 60.0))
        self._woken.clear()
        self._ask("poll")
        taken, self.events = self.events, []
        return taken

    def start(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        node: str | None = None,
    ) -> int | None:
        self._ask("start")
        return 2**30

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        self._ask("send")

    def flush(self) -> None:
        self._ask("flush")

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        self._ask("stop")

    def stop_all(self, *, force: bool = False) -> None:
        self._ask("stop_all")

    def close(self, on_end: Callable[[WorkerGone], None]) -> list[str]:
        self._ask("close")
        return []

    def pids(self) -> list[int]:
        return []

    def moved_away(self, worker_id: str) -> bool:
        return True

    def believes(self, worker_id: str) -> bool:
        return True

    def reject(self, worker_id: str, why: str) -> None:
        self._ask("reject")

    def watch(self, group: int) -> None:
        self._ask("watch")

    def forget(self, group: int) -> None:
        self._ask("forget")

    def wants(self, demand: Demand) -> None:
        self._ask("wants")

    def time_left_s(self, devices: Sequence[Device]) -> float:
        return math.inf
