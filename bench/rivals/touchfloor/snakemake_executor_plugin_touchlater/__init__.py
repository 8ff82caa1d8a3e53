"""The same executor, but jobs end on another thread while Snakemake goes on, one after the other.

So does every executor that starts something and hears of its end later. Snakemake then looks after
each job as it ends, instead of after all at once: what that takes is no executor's own.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import snakemake_executor_plugin_touchfloor as floor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

common_settings = floor.common_settings


class Executor(floor.Executor):
    """Touch outputs on a thread of its own."""

    def __post_init__(self) -> None:
        """Start the thread."""
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._touch, name="touch", daemon=True).start()

    def run_job(self, job) -> None:
        """Hand one prepared job over."""
        info = SubmittedJobInfo(job)
        self.report_job_submission(info)
        self._ready.put(info)

    def _touch(self) -> None:
        while True:
            info = self._ready.get()
            floor.touch(info.job)
            self.report_job_success(info)
