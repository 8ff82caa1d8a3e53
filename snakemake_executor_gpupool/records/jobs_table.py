"""``jobs.tsv``: one line for each job that has ended, as Nextflow's trace file has them.

Where a column means the same it has Nextflow's name, and its values are those of
``trace.raw = true``: times in milliseconds since the epoch, durations in milliseconds. What is
unknown is ``-``, as there. The other columns are gpupool's own. Lines are appended as jobs end, so
that a run that is killed leaves those of the jobs that had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.paths import open_private

#: Nextflow's, and what they are here.
NEXTFLOWS = {
    "task_id": "the job's number in this run, `job_id` of `events.jsonl`",
    "process": "its rule",
    "tag": "its wildcards",
    "name": "rule and wildcards, as messages have them",
    "status": "`COMPLETED`, `FAILED`, or `ABORTED`: not started, or the run ended before it",
    "exit": "`0`; `-` where it has not completed, as a served job has no process of its own",
    "attempt": "which try it is",
    "cpus": "its `threads:`",
    "submit": "when it was ready",
    "start": "when a process first worked for it, or it got its devices",
    "complete": "when it ended",
    "duration": "from `submit` to `complete`",
    "realtime": "from `start` to `complete`",
}
OWN = {
    "kind": "`served`, or `leased`: a plain job with devices of its own",
    "items": "how many items it has",
    "duplicates": "items that another place had asked for before",
    "reused": "distinct items whose results an earlier run had left",
    "worked_s": "its share of the time of its batches, reading and writing, in seconds",
    "device": "what it was computed on: `cuda` or `cpu`",
    "device_s": "device seconds; of a leased job, for how long it had its devices",
    "saved_s": "device seconds that it did not take, since others had asked for the same",
    "peak_device_mib": "peak device memory of the workers of its batches, in MiB",
    "energy_j": "its share of the energy of its batches, in joules",
    "error": "the first line of its message",
}
COLUMNS = (*NEXTFLOWS, *OWN)
#: For how long a line may wait for others, in seconds.
PATIENCE_S = 1.0


@dataclass(slots=True)
class _Open:
    """A job that has not ended."""

    row: dict[str, Any]
    submit_s: float
    start_s: float | None = None
    devices: tuple[str, ...] = ()


class JobsTable:
    """Writes the table from the events of a run; what cannot be written is lost.

    Parameters
    ----------
    path
        The file; opened with the first line. Used by the run loop's thread alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._pending: list[str] = []
        self._pending_since_s = 0.0
        self._open: dict[int, _Open] = {}
        self._last_s = 0.0
        self._handlers: dict[str, Callable[[float, Mapping[str, Any]], None]] = {
            "job_submitted": self._submitted,
            "lease_requested": self._requested,
            "read_sent": self._started,
            "publish_sent": self._started,
            "lease_granted": self._started,
            "job_done": self._ended("COMPLETED"),
            "job_failed": self._ended("FAILED"),
            "job_withdrawn": self._ended("ABORTED"),
            "lease_released": self._released,
            "lease_failed": self._ended("FAILED"),
        }

    def take(self, time_s: float, event: str, fields: Mapping[str, Any]) -> None:
        """Take in an event of the run."""
        self._last_s = time_s
        handler = self._handlers.get(event)
        if handler is not None:
            handler(time_s, fields)

    def _submitted(self, time_s: float, fields: Mapping[str, Any], kind: str = "served") -> None:
        wildcards = fields.get("wildcards", {})
        row = {
            "task_id": fields["job_id"],
            "process": fields.get("rule", ""),
            "tag": ", ".join(f"{name}={value}" for name, value in wildcards.items()),
            "name": fields["job"],
            "attempt": fields.get("attempt", 1),
            "cpus": fields.get("threads", 1),
            "kind": kind,
        }
        self._open[fields["job_id"]] = _Open(row, time_s)

    def _requested(self, time_s: float, fields: Mapping[str, Any]) -> None:
        self._submitted(time_s, fields, "leased")

    def _started(self, time_s: float, fields: Mapping[str, Any]) -> None:
        job = self._open.get(fields["job_id"])
        if job is not None and job.start_s is None:
            job.start_s = time_s
            job.devices = tuple(fields.get("devices", ()))

    def _ended(self, status: str) -> Callable[[float, Mapping[str, Any]], None]:
        def ended(time_s: float, fields: Mapping[str, Any]) -> None:
            job = self._open.pop(fields["job_id"], None)
            if job is not None:
                self._add(job, time_s, status, fields)

        return ended

    def _released(self, time_s: float, fields: Mapping[str, Any]) -> None:
        job = self._open.pop(fields["job_id"], None)
        if job is None:
            return
        held_s = time_s - (time_s if job.start_s is None else job.start_s)
        kinds = sorted({name.rpartition("/")[2].partition(":")[0] for name in job.devices})
        taken = {"device_s": held_s * len(job.devices), "device_kind": ", ".join(kinds)}
        status = "FAILED" if "error" in fields else "COMPLETED"
        self._add(job, time_s, status, {**fields, **taken})

    def _add(self, job: _Open, time_s: float, status: str, fields: Mapping[str, Any]) -> None:
        row = job.row
        row["status"] = status
        row["exit"] = 0 if status == "COMPLETED" else None
        row["submit"], row["complete"] = _ms(job.submit_s), _ms(time_s)
        row["duration"] = _ms(time_s - job.submit_s)
        if job.start_s is not None:
            row["start"], row["realtime"] = _ms(job.start_s), _ms(time_s - job.start_s)
        for name in ("items", "worked_s", "device_s", "energy_j"):
            row[name] = fields.get(name)
        if "items" in fields:
            row["duplicates"] = fields.get("duplicates", 0)
            row["reused"] = fields.get("reused", 0)
            row["saved_s"] = fields.get("saved_s", 0.0)
        row["device"] = fields.get("device_kind")
        row["peak_device_mib"] = fields.get("peak_mib")
        row["error"] = str(fields.get("error") or "").partition("\n")[0] or None
        if not self._pending:
            self._pending_since_s = time.time()
        self._pending.append("\t".join(map(_cell, map(row.get, COLUMNS))) + "\n")

    def flush(self, at_least: int = 1) -> None:
        """Hand what was written to the operating system.

        Parameters
        ----------
        at_least
            Wait for so many lines, for up to a second.
        """
        if not self._pending:
            return
        if len(self._pending) < at_least and time.time() < self._pending_since_s + PATIENCE_S:
            return
        lines, self._pending = self._pending, []
        try:
            if self._file is None:
                self._file = FileIO(self._path, "a", opener=open_private)
                lines.insert(0, "\t".join(COLUMNS) + "\n")
            self._file.write("".join(lines).encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # whoever writes the events says that the disk is full, or gone

    def set_aside(self) -> None:
        """Begin a new file, in the place of the last one that was set aside."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.replace(self._path.with_name(f"earlier-{self._path.name}"))

    def close(self) -> None:
        """Write down the jobs that have not ended, and close the file."""
        for job in self._open.values():
            self._add(job, self._last_s, "ABORTED", {})
        self._open.clear()
        self.flush()
        if self._file is not None:
            self._file.close()


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _cell(value: Any) -> str:
    if type(value) is int:  # most are
        return str(value)
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.6f}"
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)
