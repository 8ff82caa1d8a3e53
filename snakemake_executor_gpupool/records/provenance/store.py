"""The file of provenance: one JSON object a line, only ever appended to.

A write starts with an end of line, so a record that a killed run has half written spoils no later
one: it is a line that is no JSON, which readers pass over. Each write is a single one at the file's
end, so several runs of a workflow may append at once, without a lock that a stopped run would hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.paths import open_private
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.json_text import json_encoder

#: Of the records.
FORMAT = 1
#: Longer records are not written; their parts are bounded so that they stay far below.
MAX_RECORD_BYTES = 4 * 1024**2
_json_of = json_encoder(printable)


class ProvenanceStore:
    """Appends records; used by the run loop's thread alone.

    Parameters
    ----------
    path
        The file; opened with the first record.

    Attributes
    ----------
    error
        Why records were lost; None: none were.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._pending: list[bytes] = []
        self.error: OSError | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Queue a record for the next :meth:`flush`."""
        line = line_of(record)
        if len(line) <= MAX_RECORD_BYTES:
            self._pending.append(line)

    def flush(self) -> None:
        """Write the queued records. Never raises: an error is kept in ``error``."""
        if not self._pending:
            return
        data = b"\n" + b"".join(self._pending)
        self._pending.clear()
        try:
            if self._file is None:
                self._file = FileIO(self.path, "a", opener=open_private)
            written = self._file.write(data)
            if written < len(data):
                raise OSError(28, "No space left on device")
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Write what is queued, and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()


def line_of(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line; readers look for its texts as they stand here."""
    return _json_of(record).encode("ascii") + b"\n"
