"""The run's event log and its summary."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class EventLog:
    """Appends one JSON object a line: ``time_s`` (since the epoch), ``event``, and its fields.

    Parameters
    ----------
    path
        The file; opened on the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append one event."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        record = {"time_s": round(time.time(), 6), "event": event, **fields}
        self._file.write(json.dumps(record, default=str) + "\n")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of a run, whole or not at all."""
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    staged.replace(path)
