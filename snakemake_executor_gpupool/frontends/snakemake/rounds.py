"""Snakemake looks once after the jobs that have ended together, instead of once for each.

Its scheduler waits for a semaphore that is released for each job that ends, and then looks after
all that have ended. Those that end while it is at this it has seen to by the time it asks again:
then it finds nothing, once for each of them, which is a quarter of what it does for a job's end.
"""

from __future__ import annotations

import threading
from typing import Any


def merge_rounds(scheduler: Any) -> None:
    """Leave the scheduler one reason to look, if there are several.

    To be called after a job was reported. What was reported, by whomever, stood in the scheduler's
    tables before the semaphore was released for it, so looking once finds it all; and one reason
    is left whenever one was there.
    """
    reasons = getattr(scheduler, "_open_jobs", None)
    if not isinstance(reasons, threading.Semaphore) or not reasons.acquire(blocking=False):
        return
    while reasons.acquire(blocking=False):
        pass
    reasons.release()
