"""From the lines of ``events.jsonl`` to a :class:`~.values.RunView`, all at once or as they come.

What cannot be read is left out and counted, never an error: a line that was cut off (the run goes
on, or was killed, or the disk was full), a field of an unexpected kind, an event that this version
does not know. ``RunView.notes`` says so, and what the run's own version did not record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.events import FORMAT, read_summary
from snakemake_executor_gpupool.records.runs.fields import Event, number
from snakemake_executor_gpupool.records.runs.files import EVENTS
from snakemake_executor_gpupool.records.runs.job_events import JobEvents
from snakemake_executor_gpupool.records.runs.run_events import RunEvents
from snakemake_executor_gpupool.records.runs.states import JobState, RunState
from snakemake_executor_gpupool.records.runs.values import RunView
from snakemake_executor_gpupool.records.runs.worker_events import WorkerEvents

#: What an event may lack or have wrong, whoever wrote it.
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_CHUNK_BYTES = 1 << 20


class EventReader:
    """Makes a run's view from its events.

    Parameters
    ----------
    run
        The view to fill, which may be read between any two calls.

    Notes
    -----
    Not thread-safe. A line takes some 4 µs.
    """

    def __init__(self, run: RunView) -> None:
        self.run = run
        #: Lines that were no event, and events that made no sense.
        self.damaged_lines = 0
        self.unknown_events: set[str] = set()
        self._rest = b""
        self._of_run = RunEvents(run)
        takers = (self._of_run, JobEvents(run), WorkerEvents(run))
        self._handlers: dict[str, Callable[[Event, float], None]] = {
            name.removeprefix("_on_"): getattr(taker, name)
            for taker in takers
            for name in dir(taker)
            if name.startswith("_on_")
        }

    @property
    def format(self) -> int:
        """Of the lines, as the run says; 1: it says nothing."""
        return self._of_run.format

    # -- lines -----------------------------------------------------------------------
    def feed(self, data: bytes) -> None:
        """Take in more of the file; a last line without its end waits for the rest."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._take_lines([line for line in lines if line.strip()])

    def _take_lines(self, lines: list[bytes]) -> None:
        for event in _parsed(lines):
            try:
                kind, now_s = str(event["event"]), number(event["time_s"])
            except UNREADABLE:
                self.damaged_lines += 1
            else:
                self.take(kind, now_s, event)

    def take(self, kind: str, now_s: float, event: Event) -> None:
        """Take in one event."""
        handler = self._handlers.get(kind)
        if handler is None:
            self.unknown_events.add(kind)
            return
        self.run.last_at_s = now_s
        try:
            handler(event, now_s)
        except UNREADABLE:
            self.damaged_lines += 1

    def close(self) -> None:
        """Nothing more comes: what is left of a line counts as damaged."""
        if self._rest.strip():
            self._take_lines([self._rest])
        self._rest = b""


def _parsed(lines: list[bytes]) -> list[Any]:
    """Return what lines of JSON say, each or, if all are whole, together; None where one is none.

    One by one takes twice as long.
    """
    if all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        together = _parsed_line(b"[%b]" % b",".join(lines))
        if together is not None and len(together) == len(lines):
            return list(together)
    return [*map(_parsed_line, lines)]


def _parsed_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class RunReader:
    """Reads a run's directory, as far as it is written, and again as it grows.

    Parameters
    ----------
    directory
        The run's own directory.

    Attributes
    ----------
    run
        The view, brought up to date by :meth:`poll`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / EVENTS
        self._offset = 0
        self._start()

    def _start(self) -> None:
        self.run = RunView(self._directory, self._directory.name)
        self._reader = EventReader(self.run)
        self._offset = 0

    def poll(self) -> bool:
        """Read what was added since the last call; return whether there was something.

        A file that has become shorter is another run's: it is read from its beginning.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._start()
                file.seek(self._offset)
                before = self._offset
                while data := file.read(_CHUNK_BYTES):
                    self._offset += len(data)
                    self._reader.feed(data)
        except OSError:
            return False
        return self._offset > before

    def finish(self) -> RunView:
        """Return the view of a run that goes no further, with what it left beside its events."""
        self._reader.close()
        run = self.run
        run.summary = read_summary(self._directory / "summary.json")
        if run.state is RunState.GOING:
            run.state = RunState.KILLED
        lose_what_is_open(run)
        self.add_notes()
        return run

    def add_notes(self) -> None:
        """Bring ``RunView.notes`` up to date."""
        run, reader = self.run, self._reader
        run.notes = []
        if run.started_at_s is None:
            run.notes.append(
                "its first event is missing: devices, options and versions are unknown"
            )
        elif reader.format < FORMAT:
            run.notes.append(
                "it was written by an older version of gpupool, which recorded neither what jobs "
                "cost nor their files"
            )
        elif reader.format > FORMAT:
            run.notes.append(
                "it was written by a newer version of gpupool: what this one does not know of is "
                "left out"
            )
        if reader.damaged_lines:
            lines = "line" if reader.damaged_lines == 1 else "lines"
            run.notes.append(
                f"{reader.damaged_lines} damaged {lines} of events.jsonl left out: some of what "
                "happened may be missing"
            )


def lose_what_is_open(run: RunView) -> None:
    """End what a run that is over has left open: jobs, leases, batches and workers."""
    end_s = run.end_s
    for job in run.jobs.values():
        if not job.state.is_over:
            job.state = JobState.LOST
    for lease in run.leases.values():
        if not lease.state.is_over:
            lease.state = JobState.LOST
    for batch in run.batches.values():
        if batch.ended_at_s is None:
            batch.is_lost, batch.ended_at_s = True, max(end_s, batch.started_at_s)
    for worker in run.workers.values():
        if worker.open_span is not None:
            worker.spans.append(worker.open_span._replace(to_s=end_s))
            worker.open_span = None


def read_run(directory: Path, *, is_live: bool = False) -> RunView:
    """Return what a run's directory holds, as far as it can be read; never raises for its contents.

    Parameters
    ----------
    directory
        As :func:`~.files.find_run` returns it.
    is_live
        The run goes on (:func:`~.files.is_live`): what is open is not lost.
    """
    reader = RunReader(directory)
    reader.poll()
    if not is_live:
        return reader.finish()
    reader.add_notes()
    return reader.run
