"""After a failure without ``--keep-going`` nothing new starts.

Snakemake submits all ready jobs at once and waits for all of them. Jobs that it would not have
started under its local executor are therefore withdrawn here. A job that Snakemake has already
prepared (its outputs are removed) is reported as failed, without a message. Any other is left
untouched, with its old outputs and without a report; when nothing else runs any more, the run is
ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

#: How often to check whether anything still runs.
LOOK_S = 0.1


class Halt:
    """Whether a job has failed for good, and which jobs were not started since.

    Parameters
    ----------
    stop
        Called once, when nothing new may start. Must not block, nor call Snakemake's scheduler.
    """

    def __init__(self, workflow: Any, stop: Callable[[], None]) -> None:
        self._workflow = workflow
        self._stop = stop
        self._lock = threading.Lock()
        self._is_on = False
        self._is_over = False
        self._untouched: set[Any] = set()
        self._unstarted = 0
        self._ender: threading.Thread | None = None

    def failed(self, job: Any) -> None:
        """Note that a job has failed; it may be tried again."""
        if job.restart_times <= job.attempt - 1:
            self._set_on()

    def look(self) -> None:
        """Check whether a job that Snakemake runs itself has failed."""
        if not self._is_on and self._workflow.scheduler.failed:
            self._set_on()

    def _set_on(self) -> None:
        with self._lock:
            if self._is_on or self._workflow.execution_settings.keep_going:
                return
            self._is_on = True
        self._stop()

    def withdrawn(self, job: Any, *, is_prepared: bool) -> None:
        """Note that a job was not started."""
        with self._lock:
            self._unstarted += len(job)
            if not is_prepared:
                self._untouched.add(job)
            if self._untouched and self._ender is None:
                self._ender = threading.Thread(target=self._end, name="gpupool-halt", daemon=True)
                self._ender.start()
        if is_prepared:
            self._workflow.scheduler.error_callback(job)

    def _end(self) -> None:
        """End the run once Snakemake waits only for jobs that were not started."""
        scheduler = self._workflow.scheduler
        while not self._is_over:
            time.sleep(LOOK_S)
            try:
                running = set(scheduler.running)
            except RuntimeError:  # changed by another thread meanwhile
                continue
            with self._lock:
                is_idle = running <= self._untouched
            if is_idle:
                scheduler.executor_error_callback(WorkflowError(self.words()))
                return

    def over(self) -> None:
        """Note that the run is ending, for whatever reason."""
        self._is_over = True

    def words(self) -> str:
        """Return a line on how many jobs were not started; empty: none."""
        if not self._unstarted:
            return ""
        return (
            f"gpupool: {self._unstarted} jobs were not started because another one failed. "
            "--keep-going starts them all the same"
        )

    def last_words(self) -> str:
        """Return :meth:`words`, unless the error that ends the run contains them."""
        return "" if self._untouched else self.words()
