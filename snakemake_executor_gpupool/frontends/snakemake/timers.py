"""Snakemake's own timers, which its process would wait for at its end."""

from __future__ import annotations

import threading
from typing import Any


def drop_timers(scheduler: Any) -> None:
    """End the timers that would only have a scheduler look again for jobs, which has none left.

    After handing out jobs Snakemake looks again when the time of ``--max-jobs-per-timespan`` is
    over, a second by default, and each run ends with that second. Timers of anything else, or of
    another scheduler of this process, are left alone.
    """
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and _is_of(scheduler, thread.function):
            thread.cancel()


def _is_of(scheduler: Any, function: Any) -> bool:
    name = getattr(function, "__qualname__", "")
    cells = getattr(function, "__closure__", None) or ()
    return "_schedule_reevalu" in name and any(c.cell_contents is scheduler for c in cells)
