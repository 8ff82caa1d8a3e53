"""Finds records of provenance again: by an output's path, by its content, by a run.

The file is searched for the text of a record as it was written, the newest first, so nothing needs
an index that could be damaged or out of date. What is no record is passed over: a line that a
killed run has left half written, or that something else has damaged.
"""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.records.paths import PROVENANCE
from snakemake_executor_gpupool.records.provenance.store import FORMAT

Record = dict[str, Any]
#: Where it is from a workflow's directory.
PLACE = Path(".snakemake", "gpupool", PROVENANCE)


class NoProvenance(GpupoolError):
    """There is no such file, or it is damaged or of another format; the message says which."""


def find_file(start: Path) -> Path | None:
    """Return the file of the workflow that a path belongs to: of the nearest directory above."""
    for directory in (start, *start.parents):
        if (directory / PLACE).is_file():
            return directory / PLACE
    return None


class ProvenanceReader:
    """Reads a file of provenance; a context manager.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    NoProvenance
        It is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: mmap.mmap | bytes = b""
        try:
            with path.open("rb") as file, contextlib.suppress(ValueError):  # it is empty
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise NoProvenance(f"{path} cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    @contextlib.contextmanager
    def making_sense(self) -> Iterator[None]:
        """Say it of a record that is none of gpupool's, or damaged, while records are used.

        Raises
        ------
        NoProvenance
            What was done with one cannot be done.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise NoProvenance(
                f"{self.path} has a record that makes no sense ({error!r}): it is damaged"
            ) from error

    # -- search ------------------------------------------------------------------------
    def lines_with(self, text: bytes) -> Iterator[Record]:
        """Yield the records that contain a text, the newest first."""
        data, end = self._data, len(self._data)
        while (found := data.rfind(text, 0, end)) >= 0:
            start = data.rfind(b"\n", 0, found) + 1
            stop = data.find(b"\n", found)
            record = read_line(data[start : stop if stop >= 0 else len(data)])
            if record is not None:
                yield record
            end = start

    def __iter__(self) -> Iterator[Record]:
        """Yield all records in the order in which they were written."""
        start = 0
        while start < len(self._data):
            stop = self._data.find(b"\n", start)
            stop = len(self._data) if stop < 0 else stop
            record = read_line(self._data[start:stop])
            if record is not None:
                yield record
            start = stop + 1

    def by_id(self, ident: str) -> Record | None:
        """Return the record that has an id; None: it was not written."""
        text = f'{{"id": {json.dumps(ident)}, '.encode()
        return next((each for each in self.lines_with(text) if each["id"] == ident), None)

    def outputs_at(self, path: str) -> Iterator[tuple[Record, Record]]:
        """Yield each record of an output with that path, with its job's, the newest first."""
        yield from self._outputs(f'"output": {json.dumps(path)}', "output", path)

    def outputs_with(self, sha256: str) -> Iterator[tuple[Record, Record]]:
        """Yield each record of an output with that content, with its job's, the newest first."""
        yield from self._outputs(f'"sha256": {json.dumps(sha256)}', "sha256", sha256)

    def _outputs(self, text: str, name: str, value: str) -> Iterator[tuple[Record, Record]]:
        for record in self.lines_with(text.encode()):
            for output in _dicts(record.get("outputs")):
                if output.get(name) != value:
                    continue
                job = record
                if record.get("record") == "outputs":
                    job = self.by_id(str(record.get("of"))) or record
                yield output, job

    # -- what belongs to a record ----------------------------------------------------------
    def run_of(self, record: Record) -> Record | None:
        """Return the run that wrote a record."""
        return self.by_id(str(record["id"]).partition("/")[0])

    def batches_of(self, job: Record) -> list[Record]:
        """Return a job's batches, each with its ``worker`` and ``of_job``, its items there."""
        found = []
        for pair in job.get("batches", ()):
            batch = self.by_id(pair[0])
            if batch is not None:
                worker = self.by_id(str(batch.get("worker")))
                found.append({**batch, "of_job": pair[1], "worker": worker})
        return found

    def devices_of(self, record: Record) -> list[Record]:
        """Return what is known of the devices that a batch or a leased job had."""
        run = self.run_of(record) or {}
        known = {device.get("name"): device for device in _dicts(run.get("devices"))}
        ident = str(record["id"]).partition("/")[0]
        found = []
        for name in record.get("devices", ()):
            joined = None if name in known else self.by_id(f"{ident}/device/{name}")
            found.append(known.get(name) or joined or {"name": name})
        return found

    def computed(self, model: str, group: str, key: str) -> Record | None:
        """Return the newest batch that computed an item whose result was kept; None: unknown."""
        for record in self.lines_with(json.dumps(key).encode()):
            keys = record.get("keys", [])
            if record.get("record") == "batch" and key in keys:
                if (record.get("model"), record.get("group")) == (model, group):
                    return record
            elif record.get("record") == "job" and [model, group, key] in keys:
                return self.by_id(record["batches"][0][0])
        return None

    def run_named(self, name: str | None) -> Record | None:
        """Return the newest run, or the newest of a name."""
        for record in self.lines_with(b'"record": "run", '):
            if record.get("record") == "run" and name in (None, record["id"], record.get("run")):
                return record
        return None

    def of_run(self, ident: str) -> Iterator[Record]:
        """Yield a run's records in their order."""
        for record in self:
            if record["id"] == ident or record["id"].startswith(f"{ident}/"):
                yield record


def read_line(line: bytes) -> Record | None:
    """Return the record of a line; None: it is none that this version can read."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        return None
    return record if record.get("format", FORMAT) == FORMAT else None


def _dicts(value: Any) -> list[Record]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
