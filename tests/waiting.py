"""How tests wait: for something to be so, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A busy machine may take this long for what takes it milliseconds otherwise.
PATIENCE_S = 60.0


def eventually(condition: Callable[[], object], within_s: float = PATIENCE_S) -> bool:
    """Wait until something is so; return whether it is.

    A shorter time is for what is promised within it.
    """
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.02)
    return True
