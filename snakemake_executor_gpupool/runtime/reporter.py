"""The thread that tells callers what happened: they may be slow, or fail."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Tell = Callable[[], None]


class Reporter:
    """Calls callbacks one after the other, on a thread of its own.

    Parameters
    ----------
    failed
        Called on that thread with the error of a callback; the others are called all the same.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._outgoing: queue.SimpleQueue[Tell | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gpupool-reports", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, tell: Tell) -> None:
        """Have ``tell`` called, after all that was put before. Returns at once."""
        self._outgoing.put(tell)

    def _run(self) -> None:
        while True:
            tell = self._outgoing.get()
            if tell is None:
                return
            try:
                tell()
            except BaseException as error:  # whatever it is, somebody has not been told
                self._failed(error)

    def close(self, patience_s: float) -> None:
        """Tell what is left, for so long at most; then the thread ends."""
        self._outgoing.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_s)
