"""After a failure without ``--keep-going`` nothing new starts.

Snakemake hands out all that is ready at once, and waits for what it has handed out. What it would
not have started under its local executor is therefore taken back here. A job that Snakemake has
made ready for us (its outputs are removed) is given back as one that failed, without a word. Any
other is left as it was, with its old outputs; so nobody reports it, and when nothing else runs any
more, the run is ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

#: How often it is looked whether anything still runs.
LOOK_S = 0.1


class Halt:
    """Whether something has failed for good, and what was not started since.

    Parameters
    ----------
    stop
        Called once: nothing new is to be started. Must not wait, nor call Snakemake's scheduler.
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
        """A job has failed; it may be tried again."""
        if job.restart_times <= job.attempt - 1:
            self._set_on()

    def look(self) -> None:
        """Look whether a job has failed that Snakemake runs by itself."""
        if not self._is_on and self._workflow.scheduler.failed:
            self._set_on()

    def _set_on(self) -> None:
        with self._lock:
            if self._is_on or self._workflow.execution_settings.keep_going:
                return
            self._is_on = True
        self._stop()

    def withdrawn(self, job: Any, *, is_prepared: bool) -> None:
        """A job was not started."""
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
        """End the run when all that Snakemake waits for is what was not started."""
        scheduler = self._workflow.scheduler
        while not self._is_over:
            time.sleep(LOOK_S)
            try:
                running = set(scheduler.running)
            except RuntimeError:  # it changes meanwhile
                continue
            with self._lock:
                is_idle = running <= self._untouched
            if is_idle:
                scheduler.executor_error_callback(WorkflowError(self.words()))
                return

    def over(self) -> None:
        """The run ends, for whatever reason."""
        self._is_over = True

    def words(self) -> str:
        """Say how many jobs were not started; empty: none, or it is being said anyway."""
        if not self._unstarted:
            return ""
        return (
            f"gpupool: {self._unstarted} jobs were not started, since another one has failed. "
            "--keep-going starts them all the same"
        )

    def last_words(self) -> str:
        """Return :meth:`words` unless the end of the run has them already."""
        return "" if self._untouched else self.words()
