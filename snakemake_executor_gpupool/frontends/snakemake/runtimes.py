"""What Snakemake's own report shows as a served job's runtime: its share of the work.

Snakemake takes a job's start from when its outputs were marked incomplete, which is when it was
submitted: a thousand jobs that are submitted together would each have run for most of the run.
The end is when Snakemake looks after a finished job, as under any executor.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any


def tell_runtime(persistence: Any, job: Any, seconds: float) -> None:
    """Have a job that has just been done count as started so many seconds ago.

    It is a date of the markers that Snakemake keeps in files. Where there are none (another kind of
    persistence, another version) its report shows what it would have shown.
    """
    start_s = time.time() - seconds
    with contextlib.suppress(OSError, AttributeError, TypeError):
        for path in job.output:
            key = persistence._get_key(path)
            marker = persistence._record_path(persistence._incomplete_path, key)
            os.utime(marker, (start_s, start_s))
