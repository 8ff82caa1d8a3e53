"""A child's output: passed on as it comes, with its end kept for error messages."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import IO

#: How much of the end of a child's output is kept.
MAX_WORDS_BYTES = 4096


class Words:
    """Passes a child's output on, and keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._pass_on, name="lane-words", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        # Not by lines: progress bars write none for a long time.
        with contextlib.suppress(OSError, ValueError), self._stream:
            while data := os.read(self._stream.fileno(), 65536):
                self._kept = (self._kept + data)[-MAX_WORDS_BYTES:]
                os.write(2, data)

    def last(self) -> str:
        """Return the end of the output; processes that the child left behind may still write."""
        self._thread.join(timeout=1.0)
        return self._kept.decode(errors="replace").strip()
