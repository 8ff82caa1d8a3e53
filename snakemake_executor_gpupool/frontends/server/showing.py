"""What a tool has printed for a client's job, shown as a cold command would show it.

The server names places in the logs of its processes; the client copies them, byte for byte, at its
own pace, whatever becomes of the server meanwhile. Standard library only, and light.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

#: So much is copied at once.
CHUNK_BYTES = 1 << 20


class Shown:
    """Opens the logs that an answer names, and copies from them.

    Parameters
    ----------
    answer
        Of the server.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self._left_out = int(answer.get("left_out") or 0)
        self._logs: dict[str, int] = {}
        self._places: list[tuple[int, int, int, int]] = []
        for path, start, end, jobs in answer.get("printed") or ():
            if path not in self._logs:
                try:
                    self._logs[path] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                except OSError:
                    self._left_out += 1  # the server was killed just now, and its files are gone
                    continue
            self._places.append((self._logs[path], start, end, jobs))

    def copy_to(self, target: int) -> None:
        """Write to a descriptor what was printed; what it does not take is lost, as ever."""
        with contextlib.suppress(OSError):
            for part in self._parts():
                view = memoryview(part)
                while view:
                    view = view[os.write(target, view) :]
        for log in self._logs.values():
            os.close(log)
        self._logs.clear()

    def _parts(self) -> Iterable[bytes]:
        is_torn = False
        for log, start, end, jobs in self._places:
            if jobs > 1:
                line = f"gpupool: printed once for {jobs} jobs:\n"
                yield ("\n" * is_torn + line).encode()
            for place in range(start, end, CHUNK_BYTES):
                part = os.pread(log, min(CHUNK_BYTES, end - place), place)
                yield part
                is_torn = not part.endswith(b"\n")
        if self._left_out:
            line = f"gpupool: {self._left_out} more parts of what was printed are not shown\n"
            yield ("\n" * is_torn + line).encode()
