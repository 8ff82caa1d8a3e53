"""The thread that calls the callbacks, which may be slow or fail."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
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
        self._outgoing: deque[Tell | None] = deque()
        #: Has something in it when there is something to call; of the threads' queues the lightest.
        self._something: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_called = False
        self._thread = threading.Thread(target=self._run, name="gpupool-reports", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, tell: Tell) -> None:
        """Have ``tell`` called after everything put before. Returns at once."""
        self._put(tell)

    def _put(self, tell: Tell | None) -> None:
        self._outgoing.append(tell)
        # To wake the thread costs more than all else here: once is enough until it looks. It looks
        # at what there is after it has said that it must be called again.
        if not self._is_called:
            self._is_called = True
            self._something.put(None)

    def _run(self) -> None:
        while True:
            self._something.get()
            # While it finds something each time it looks by itself, and nobody has to call it.
            is_found = True
            while is_found and (pause_s := self._pause_s()) > 0.0:
                time.sleep(pause_s)
                is_found = bool(self._outgoing)
                if self._is_closed_by_what_waits():
                    return
            self._is_called = False
            if self._is_closed_by_what_waits():
                return

    def _is_closed_by_what_waits(self) -> bool:
        """Call what there is; tell whether the end was among it."""
        for _ in range(len(self._outgoing)):
            tell = self._outgoing.popleft()
            if tell is None:
                return True
            self._call(tell)
        return False

    def _call(self, tell: Tell) -> None:
        try:
            tell()
        except BaseException as error:  # a report may be lost: the run must end
            self._failed(error)

    def close(self, patience_s: float) -> None:
        """Call what is left, then end the thread; wait for ``patience_s`` at most."""
        self._put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_s)
