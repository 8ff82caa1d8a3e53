"""Where in a process's log stands what a tool has printed for which job.

A process that outlives runs works for clients that show what their job's tool prints. Its output
goes to its log in any case; here it is noted from where to where, which the coordinator is told
before the answer. What is printed while nothing was asked for belongs to nobody.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import Any, Callable

from snakemake_executor_gpupool.worker.channel import Channel


class Printed:
    """Notes what is printed to the log of this process.

    Parameters
    ----------
    is_wanted
        Whether anybody wants to know; else nothing is noted.
    """

    def __init__(self, is_wanted: bool) -> None:
        self._is_on = is_wanted and stat.S_ISREG(os.fstat(1).st_mode)
        self._start = 0
        self._flush_c: Callable[[], object] = lambda: None
        if self._is_on:
            self._flush_c = _flusher()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    # In the order in which they are printed, with those of programs that it starts.
                    stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def begin(self) -> None:
        """Something new was asked for: what was printed before it is not its own."""
        if self._is_on:
            self._start = self._end()

    def since(self, doing: str, about: int = 0) -> dict[str, Any] | None:
        """Return the message on what was printed since; None: nothing was.

        Parameters
        ----------
        doing
            One of ``wire.messages.DOING``.
        about
            The number of the job or batch, if there is one.
        """
        if not self._is_on:
            return None
        start, self._start = self._start, self._end()
        if self._start <= start:
            return None
        place = {"start": start, "end": self._start}
        return {"type": "printed", "doing": doing, "about": about, **place}

    def tell(self, channel: Channel, doing: str, about: int = 0) -> None:
        """Say what was printed since, if anything was; see :meth:`since`."""
        message = self.since(doing, about)
        if message is not None:
            channel.send(message)

    def _end(self) -> int:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a tool may have closed it
                stream.flush()
        self._flush_c()
        with contextlib.suppress(OSError):
            return os.fstat(1).st_size
        return self._start


def _flusher() -> Callable[[], object]:
    """Return what has libraries in C write what they have printed."""
    try:
        import ctypes

        flush = ctypes.CDLL(None).fflush
        flush(None)
    except (ImportError, OSError, AttributeError):
        return lambda: None  # this Python was built without ctypes
    return lambda: flush(None)
