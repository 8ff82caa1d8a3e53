"""The run's event log and summary. Neither ends a run: what cannot be written is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from snakemake_executor_gpupool.records.jobs_table import JobsTable
from snakemake_executor_gpupool.records.paths import open_private
from snakemake_executor_gpupool.records.provenance.recorder import ProvenanceRecorder
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.json_text import json_encoder

#: Of the events: 1 had no number, no costs, no files of jobs.
FORMAT = 2
#: A table's lines are written so many at a time, or when they are a second old.
MANY = 32
_json_of = json_encoder(str)


class Listener(Protocol):
    """Hears of all that happens in a run, on the run loop's thread; must be quick."""

    def take(self, time_s: float, event: str, fields: Mapping[str, Any]) -> None:
        """Take in an event."""

    def fact(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take in what the provenance of outputs is made of."""


class EventLog:
    """Appends one JSON object a line: ``time_s`` (since the epoch), ``event``, and its fields.

    Parameters
    ----------
    path
        The file; opened on the first event.
    table
        Hears of every event, too; None: nothing does.
    begun
        Called when the file is there.
    most_bytes
        A file that has grown so large is set aside, in the place of the last one that was; 0:
        none is.
    provenance, listener
        Hear of every event, as the table does.

    Attributes
    ----------
    error
        Why lines were lost; None: none were.
    """

    def __init__(
        self,
        path: Path,
        table: JobsTable | None = None,
        begun: Callable[[], None] = lambda: None,
        most_bytes: int = 0,
        provenance: ProvenanceRecorder | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._path = path
        self._table = table
        self._provenance = provenance
        hearers = (table, provenance, listener)
        self._takers = [hearer.take for hearer in hearers if hearer is not None]
        self._begun = begun
        self._most_bytes = most_bytes
        self._file: FileIO | None = None
        self._pending: list[str] = []
        self._is_torn = False
        self.error: OSError | None = None

    def write(self, event: str, fields: Mapping[str, Any], time_s: float | None = None) -> None:
        """Queue one event for the next :meth:`flush`; ``time_s``: not now, but then."""
        now_s = time.time_ns() // 1000 / 1e6 if time_s is None else time_s
        record = {"time_s": now_s, "event": event, **fields}
        self._pending.append(_line(record) + "\n")
        for take in self._takers:
            take(now_s, event, fields)

    def flush(self) -> None:
        """Write the queued events. Never raises: an error is kept in ``error``."""
        if self._table is not None:
            self._table.flush(MANY)
        if self._provenance is not None:
            self._provenance.flush()
        if not self._pending:
            return
        # End a line that was cut off before the next one starts.
        data = ("\n" * self._is_torn + "".join(self._pending)).encode()
        self._pending.clear()
        try:
            if self._file is None:
                self._file = FileIO(self._path, "a", opener=open_private)
                self._begun()
            written = self._file.write(data)
            self._is_torn = written < len(data)
            if self._most_bytes and self._file.tell() > self._most_bytes:
                self._set_aside()
        except OSError as error:
            self.error = error

    def _set_aside(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._path.replace(self._path.with_name(f"earlier-{self._path.name}"))
        if self._table is not None:
            self._table.set_aside()

    def close(self) -> None:
        """Close the file, and what hears of the events."""
        for hearer in (self._table, self._provenance):
            if hearer is not None:
                hearer.close()
        self.flush()
        if self._file is not None:
            self._file.close()


def _line(record: Any) -> str:
    """Return a record as JSON that every reader accepts: without lone surrogates."""
    text = _json_of(record)
    if "\\ud" not in text:
        return text
    return _json_of(json.loads(text, object_hook=_printable_object))


def _printable_object(fields: dict[str, Any]) -> dict[str, Any]:
    return {printable(name): _printable_value(value) for name, value in fields.items()}


def _printable_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable_value(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of a run, whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    staged = path.with_suffix(".tmp")
    with open(staged, "w", encoding="utf-8", opener=open_private) as file:
        file.write(json.dumps(summary, indent=2) + "\n")
    staged.replace(path)


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return a run's summary; None if there is none, or it is damaged."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) else None
