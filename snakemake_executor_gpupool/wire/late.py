"""Waiting for files that another machine has written: they may be visible here with a delay.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

POLL_S = 0.1


def wait_until(paths: Iterable[str], is_there: Callable[[str], bool], wait_s: float) -> list[str]:
    """Wait until all exist, for ``wait_s`` at most; return those that do not."""
    deadline_s = time.monotonic() + wait_s
    missing = [path for path in paths if not is_there(path)]
    while missing and time.monotonic() < deadline_s:
        for folder in {os.path.dirname(path) or "." for path in missing}:
            if os.path.isdir(folder):  # listing it makes network file systems look again
                os.listdir(folder)
        time.sleep(POLL_S)
        missing = [path for path in missing if not is_there(path)]
    return missing
