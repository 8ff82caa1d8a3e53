"""The thread that calls the callbacks, which may be slow or fail."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

Tell = Callable[[], None]


class Reporter:
    """Calls callbacks one after the other, on a thread of its own.

    Parameters
    ----------
    failed
        Called on that thread with the error of a callback; later callbacks are called all the same.
    pause_s
        Returns for how long callbacks may be gathered before they are called.
    """

    def __init__(
        self, failed: Callable[[BaseException], None], pause_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._failed = failed
        self._pause_s = pause_s
        self._outgoing: queue.SimpleQueue[Tell | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gpupool-reports", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, tell: Tell) -> None:
        """Have ``tell`` called after everything put before. Returns at once."""
        self._outgoing.put(tell)

    def _run(self) -> None:
        while True:
            tells = [self._outgoing.get()]
            if (pause_s := self._pause_s()) > 0.0:
                time.sleep(pause_s)
            with contextlib.suppress(queue.Empty):
                while True:
                    tells.append(self._outgoing.get_nowait())
            for tell in tells:
                if tell is None:
                    return
                self._call(tell)

    def _call(self, tell: Tell) -> None:
        try:
            tell()
        except BaseException as error:  # a report may be lost: the run must end
            self._failed(error)

    def close(self, patience_s: float) -> None:
        """Call what is left, then end the thread; wait for ``patience_s`` at most."""
        self._outgoing.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_s)
