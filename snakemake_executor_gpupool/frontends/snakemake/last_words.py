"""What a child says, passed on as it comes, and its end kept."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import IO

#: How much of what a child says last is kept.
MAX_WORDS_BYTES = 4096


class Words:
    """Passes on what a child says, and keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._pass_on, name="lane-words", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        # Read as it comes: not by lines, which may be long in coming.
        with contextlib.suppress(OSError, ValueError), self._stream:
            while data := os.read(self._stream.fileno(), 65536):
                self._kept = (self._kept + data)[-MAX_WORDS_BYTES:]
                os.write(2, data)

    def last(self) -> str:
        """Return the end of what was said; something that the child left behind may go on."""
        self._thread.join(timeout=1.0)
        return self._kept.decode(errors="replace").strip()
