"""Files that another machine has written may be seen here a little later."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

POLL_S = 0.1


def wait_for_files(paths: Iterable[str], wait_s: float) -> None:
    """Wait until all of these files are there, or the time is up: whoever opens them tells then."""
    deadline_s = time.monotonic() + wait_s
    missing = [path for path in paths if not os.path.exists(path)]
    while missing and time.monotonic() < deadline_s:
        for folder in {os.path.dirname(path) or "." for path in missing}:
            if os.path.isdir(folder):  # to list it is what makes network file systems look again
                os.listdir(folder)
        time.sleep(POLL_S)
        missing = [path for path in missing if not os.path.exists(path)]
