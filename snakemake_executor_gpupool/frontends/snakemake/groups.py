"""Group jobs: those whose members are all served run inside the pool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from snakemake_executor_gpupool.devices.strings import gpus
from snakemake_executor_gpupool.frontends.snakemake.served import Done
from snakemake_executor_gpupool.frontends.snakemake.translate import device_request
from snakemake_executor_gpupool.wire.requests import JobReport


class GroupRun:
    """A group whose members are all served: one level of it after the other.

    Parameters
    ----------
    serve
        Sends one member to the pool.
    done
        Told once, when the last member has ended or the first has failed.
    """

    def __init__(self, group: Any, serve: Callable[[Any, Done], None], done: Done) -> None:
        self._levels = [list(level) for level in group.toposorted]
        self._serve = serve
        self._done = done
        self._lock = threading.Lock()
        self._open = 0
        self._error: str | None = None

    def start(self) -> None:
        """Send the first level."""
        self._next_level()

    def _next_level(self) -> None:
        if not self._levels or self._error is not None:
            self._done(JobReport(0, self._error))
            return
        level = self._levels.pop(0)
        self._open = len(level)
        for job in level:
            self._serve(job, self._member_done)

    def _member_done(self, report: JobReport) -> None:
        with self._lock:
            self._open -= 1
            self._error = self._error or report.error
            is_last = self._open == 0
        if is_last:
            self._next_level()


def group_devices(group: Any) -> Any:
    """Return what a group that runs by itself needs at its widest level; None: no device."""
    widest = 0
    for level in group.toposorted:
        specs = [device_request(job) for job in level]
        named = [spec for spec in specs if spec is not None and spec.names]
        if named:
            return named[0]
        widest = max(widest, sum(spec.count for spec in specs if spec and spec.kind == "cuda"))
    return gpus(widest) if widest else None
