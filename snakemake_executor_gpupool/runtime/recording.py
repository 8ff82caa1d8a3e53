"""A run on record: the inputs of its decisions, and the decisions, for ``gpupool replay``.

One JSON object a line, in a file that its owner alone may read::

    {"gpupool_recording": 1, "version": "0.2.0", "setup": {...}}
    {"now_s": 12.5, "event": "JobReady", "fields": {...}, "effects": [{"effect": ...}, ...]}
    {"now_s": 12.6, "event": ..., "fields": {...}, "error": "KeyError('x')"}   it failed: a bug

Lines are appended whole, so what a killed run leaves is its record but for the last line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.records.paths import open_private
from snakemake_executor_gpupool.runtime.plain import describe, to_plain
from snakemake_executor_gpupool.scheduling.core import Setup
from snakemake_executor_gpupool.scheduling.effects import Effect
from snakemake_executor_gpupool.scheduling.events import Event

FORMAT = 1


class Recorder:
    """Writes a recording; used by the run loop's thread alone.

    It never ends a run: what cannot be written ends the recording.

    Attributes
    ----------
    error
        Why the recording has ended before the run; None: it has not.
    """

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path = path
        self.error: Exception | None = None
        self._pending: list[str] = []
        self._file: FileIO | None = None
        head = {"gpupool_recording": FORMAT, "version": __version__}
        self._put(lambda: {**head, "setup": to_plain(setup)})
        self.flush()

    def decided(self, event: Event, now_s: float, effects: Sequence[Effect]) -> None:
        """Take in an event and what was decided on it."""

        def line() -> dict[str, Any]:
            return {
                **_taken(event, now_s),
                "effects": [describe(effect) for effect in effects],
            }

        self._put(line)

    def failed(self, event: Event, now_s: float, error: BaseException) -> None:
        """Take in an event on which deciding failed."""
        self._put(lambda: {**_taken(event, now_s), "error": repr(error)})
        self.flush()

    def _put(self, line: Callable[[], dict[str, Any]]) -> None:
        if self.error is not None:
            return
        try:
            self._pending.append(json.dumps(line()) + "\n")
        except Exception as error:
            self._end(error)

    def flush(self) -> None:
        """Hand what was recorded to the operating system."""
        if not self._pending or self.error is not None:
            return
        data = "".join(self._pending).encode()
        self._pending.clear()
        try:
            if self._file is None:
                self._file = FileIO(self.path, "a", opener=open_private)
            written = self._file.write(data)
            if written < len(data):
                self._file.write(data[written:])
        except OSError as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        self.error = error
        self._pending.clear()

    def close(self) -> None:
        """Close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _taken(event: Event, now_s: float) -> dict[str, Any]:
    return {"now_s": now_s, "event": type(event).__name__, "fields": to_plain(event)}
