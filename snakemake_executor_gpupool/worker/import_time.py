"""How much of what a process does is importing.

Tools import what they compute with when they load. In a process with several models that is done
once, and loading the others takes what is left.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import builtins
import threading
import time
from typing import Any


class ImportTime:
    """A context within which the import statements of the thread that enters it are timed.

    Attributes
    ----------
    seconds
        What they have taken; one that another one has caused is part of that.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_importing = False
        self._thread = 0
        self._before: Any = None
        self._hook = self._timed

    def __enter__(self) -> ImportTime:
        """Time from now on."""
        self._thread, self._before = threading.get_ident(), builtins.__import__
        builtins.__import__ = self._hook
        return self

    def __exit__(self, *error: object) -> None:
        """Time no longer."""
        self._thread = 0
        if builtins.__import__ is self._hook:  # else somebody has it who calls what was there
            builtins.__import__ = self._before

    def _timed(self, *arguments: Any, **named: Any) -> Any:
        if self._is_importing or threading.get_ident() != self._thread:
            return self._before(*arguments, **named)
        self._is_importing, started_s = True, time.perf_counter()
        try:
            return self._before(*arguments, **named)
        finally:
            self.seconds += time.perf_counter() - started_s
            self._is_importing = False
