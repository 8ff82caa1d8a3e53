"""Work that any thread hands to one thread, which waits for something else meanwhile."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

ActT = TypeVar("ActT")


class Mailbox(Generic[ActT]):
    """A queue of functions for one thread to call, and the means to wake that thread.

    Parameters
    ----------
    wake
        Makes the thread look into the mailbox; called from any thread, after each post.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._acts: queue.SimpleQueue[ActT] = queue.SimpleQueue()

    def post(self, act: ActT) -> None:
        """Add a function. Never blocks; callable from any thread."""
        self._acts.put(act)
        self._wake()

    def take(self, timeout_s: float = 0.0) -> Iterator[ActT]:
        """Yield what there is, for the thread to call; wait ``timeout_s`` for the first."""
        try:
            yield self._acts.get(timeout=timeout_s) if timeout_s > 0 else self._acts.get_nowait()
            while True:
                yield self._acts.get_nowait()
        except queue.Empty:
            return
