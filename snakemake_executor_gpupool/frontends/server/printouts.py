"""What tools print for clients' jobs: places in the logs of the processes that worked for them.

A cold command shows what its tool prints while it is imported, reads, loads, runs and writes. Of
that a server knows:

    import, load    which processes have worked for a job: a cold job imports and loads, too, so
                    each job of a process is shown what that has printed
    read, write     the job's own, and no other's
    run             which micro-batch: all of it is shown to each job that has results of it, with
                    how many these are, even if these were computed for another one before
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_gpupool.frontends.server.day_log import DayLog
from snakemake_executor_gpupool.records.events import Listener

#: Places of one job; further ones are left out.
MAX_PLACES = 5000
#: How many micro-batches are remembered for jobs that ask for the same later.
MAX_BATCHES = 5000
#: How many processes are remembered that have died before their model was loaded.
MAX_DEAD = 100

Fields = Mapping[str, Any]


class Place(NamedTuple):
    """Bytes of a log, and for how many jobs they were printed."""

    path: str
    start: int
    end: int
    jobs: int = 1


@dataclass
class Printout:
    """What was printed for a job, and how the process ended that was at it.

    Attributes
    ----------
    exit_code
        As of a command that ended like that process; None: none has ended by itself.
    left_out
        How many places there were beyond what is kept.
    """

    places: list[Place] = field(default_factory=list)
    exit_code: int | None = None
    left_out: int = 0


@dataclass(eq=False)
class _Worker:
    """A process."""

    log: str
    stamp: str = ""
    model: str = ""
    imported: Place | None = None
    loaded: Place | None = None
    has_loaded: bool = False
    exit_code: int | None = None
    #: Up to where it is known for what its log was printed.
    told: int = 0
    #: The jobs whose files it was sent, in their order, and whether it is to write.
    files: dict[int, bool] = field(default_factory=dict)
    #: The jobs of the batches that it was sent, in their order.
    batches: dict[int, list[int]] = field(default_factory=dict)
    #: What was printed for a batch that is not done yet.
    ran: dict[int, Place] = field(default_factory=dict)


@dataclass(eq=False)
class _Job:
    """A job whose client is to see what was printed."""

    stamp: str
    model: str = ""
    reader: _Worker | None = None
    #: A process stands for what its load has printed.
    parts: list[Place | _Worker] = field(default_factory=list)
    wrote: list[Place | _Worker] = field(default_factory=list)
    batches: set[int] = field(default_factory=set)
    #: Processes that were sent items of it, and those that have done some.
    workers: set[_Worker] = field(default_factory=set)
    done_by: set[_Worker] = field(default_factory=set)
    #: Of the last process that died at it: how, and what it had printed.
    exit_code: int | None = None
    end: tuple[Place | _Worker, ...] = ()
    has_failed: bool = False
    left_out: int = 0

    def add(self, place: Place, parts: list[Place | _Worker] | None = None) -> None:
        parts = self.parts if parts is None else parts
        last = parts[-1] if parts else None
        if isinstance(last, Place) and (last.path, last.end, last.jobs) == (
            place.path,
            place.start,
            place.jobs,
        ):
            parts[-1] = last._replace(end=place.end)
        elif len(parts) < MAX_PLACES:
            parts.append(place)
        else:
            self.left_out += 1

    def meet(self, worker: _Worker) -> None:
        if worker not in self.workers:
            self.workers.add(worker)
            self.parts.append(worker)

    def left_by(self, worker: _Worker) -> None:
        """A process has died that was at it; unless it has results of it, another one loads."""
        if worker in self.workers and worker not in self.done_by:
            self.workers.discard(worker)
            self.parts.remove(worker)


class Printouts:
    """Hears of all that happens in a server's pool; ``take`` is called by the run loop's thread.

    Parameters
    ----------
    log_of
        Returns the log of a process by its name.
    """

    def __init__(self, log_of: Callable[[str], Path]) -> None:
        self._log_of = log_of
        self._lock = threading.Lock()
        self._jobs: dict[int, _Job] = {}
        self._workers: dict[str, _Worker] = {}
        #: By stamp and model: processes that have died before the model was there.
        self._dead: OrderedDict[tuple[str, str], _Worker] = OrderedDict()
        #: Batches that are done, the process of each, what it has printed and for how many jobs.
        self._done: OrderedDict[int, tuple[_Worker, Place | None, int]] = OrderedDict()
        self._handlers: dict[str, Callable[[Fields], None]] = {
            "device_granted": self._granted,
            "worker_started": self._started,
            "model_loaded": self._loaded,
            "printed": self._printed,
            "read_sent": self._read_sent,
            "write_sent": self._write_sent,
            "file_done": self._file_done,
            "job_read": self._read,
            "batch_sent": self._sent,
            "batch_done": self._computed,
            "batch_lost": self._computed,
            "worker_ended": self._ended,
            "job_failed": self._failed,
        }

    def add(self, job_id: int, stamp: str) -> None:
        """A job is about to be submitted to processes with this stamp."""
        with self._lock:
            self._jobs[job_id] = _Job(stamp)

    def finish(self, job_id: int) -> Printout:
        """Return what was printed for a job that has ended, and forget it."""
        with self._lock:
            job = self._jobs.pop(job_id, None)
        if job is None:
            return Printout()
        imported = job.reader.imported if job.reader is not None else None
        end = job.end if job.has_failed else ()
        all_parts = (*job.parts, *job.wrote, *end)
        parts = (part.loaded if isinstance(part, _Worker) else part for part in all_parts)
        places = [place for place in (imported, *parts) if place is not None]
        return Printout(places, job.exit_code if job.has_failed else None, job.left_out)

    def take(self, time_s: float, event: str, fields: Fields) -> None:
        """Take in an event."""
        handler = self._handlers.get(event)
        if handler is not None:
            with self._lock:
                handler(fields)

    def fact(self, kind: str, fields: Fields) -> None:
        """Take in of which batches a job's results are: some may have been computed before."""
        if kind != "job":
            return
        job_id = fields["request"].job_id
        with self._lock:
            job = self._jobs.get(job_id)
            for number, _ in fields["batches"] if job is not None else ():
                if number in self._done and job is not None and number not in job.batches:
                    worker, place, jobs = self._done[number]
                    self._done[number] = worker, place, jobs + 1
                    job.meet(worker)
                    if place is not None:
                        job.add(place._replace(jobs=jobs + 1))

    # -- processes -------------------------------------------------------------------------
    def _worker(self, fields: Fields) -> _Worker:
        name = fields["worker"]
        if name not in self._workers:
            self._workers[name] = _Worker(str(self._log_of(name)))
        return self._workers[name]

    def _granted(self, fields: Fields) -> None:
        self._worker(fields).model = fields["model"]

    def _started(self, fields: Fields) -> None:
        self._worker(fields).stamp = fields.get("stamp", "")

    def _loaded(self, fields: Fields) -> None:
        worker = self._worker(fields)
        worker.has_loaded = True
        self._dead.pop((worker.stamp, worker.model), None)

    def _printed(self, fields: Fields) -> None:
        worker = self._worker(fields)
        place = Place(worker.log, fields["start"], fields["end"])
        worker.told = max(worker.told, place.end)
        match fields["doing"]:
            case "import":
                worker.imported = place
            case "load":
                worker.loaded = place
            case "run":
                worker.ran[fields["batch"]] = place
            case doing:
                job = self._jobs.get(fields["job_id"])
                if job is not None:
                    job.add(place, job.wrote if doing == "write" else None)

    def _ended(self, fields: Fields) -> None:
        """A process has ended; if by itself, the end of its log is of what it was at."""
        worker = self._workers.pop(fields["worker"], None)
        if worker is None or fields["expected"]:
            return
        code = fields.get("exit")
        worker.exit_code = code if code is None or code >= 0 else 128 - code
        try:
            rest = Place(worker.log, worker.told, os.stat(worker.log).st_size)
        except OSError:
            return
        is_of_files = bool(worker.files)
        at = [*worker.files][:1] if is_of_files else next(iter(worker.batches.values()), [])
        end = [rest._replace(jobs=len(at))] if rest.start < rest.end else []
        for job in filter(None, map(self._jobs.get, at)):
            job.exit_code = worker.exit_code
            if is_of_files:  # it is read, or written, once more from the start
                (job.wrote if worker.files[at[0]] else job.parts).clear()
                job.end = tuple(end)
            else:
                job.left_by(worker)
                job.end = (worker, *end)
        if not worker.has_loaded and worker.model:
            worker.loaded = rest if end else None
            self._dead[worker.stamp, worker.model] = worker
            while len(self._dead) > MAX_DEAD:
                self._dead.popitem(last=False)

    # -- jobs and their files ----------------------------------------------------------------
    def _read(self, fields: Fields) -> None:
        job = self._jobs.get(fields["job_id"])
        if job is not None:
            job.model = fields["model"]

    def _read_sent(self, fields: Fields) -> None:
        self._file_sent(fields, is_write=False)

    def _write_sent(self, fields: Fields) -> None:
        self._file_sent(fields, is_write=True)

    def _file_sent(self, fields: Fields, *, is_write: bool) -> None:
        worker, job = self._worker(fields), self._jobs.get(fields["job_id"])
        worker.files[fields["job_id"]] = is_write
        if job is not None:
            job.reader = job.reader or worker

    def _file_done(self, fields: Fields) -> None:
        worker = self._workers.get(fields["worker"])
        if worker is not None:
            worker.files.pop(fields["job_id"], None)

    def _failed(self, fields: Fields) -> None:
        """A job has failed; if no process has computed for it, it may be that none could load."""
        job = self._jobs.get(fields["job_id"])
        if job is None:
            return
        job.has_failed = True
        if job.workers or job.end:
            return
        ident = job.stamp, job.model
        dead = self._dead.get(ident)
        for worker in [*self._workers.values(), *([dead] if dead is not None else [])]:
            if (worker.stamp, worker.model) == ident and not worker.has_loaded and worker.loaded:
                job.meet(worker)
                job.exit_code = worker.exit_code
                return

    # -- micro-batches -----------------------------------------------------------------------
    def _sent(self, fields: Fields) -> None:
        worker = self._worker(fields)
        worker.batches[fields["batch"]] = list(fields["jobs"])
        for job in filter(None, map(self._jobs.get, fields["jobs"])):
            job.meet(worker)

    def _computed(self, fields: Fields) -> None:
        worker = self._workers.get(fields["worker"])
        if worker is None:
            return
        # Others may have come meanwhile that wait for the same items.
        sent = worker.batches.pop(fields["batch"], [])
        jobs = list(dict.fromkeys([*sent, *fields.get("jobs", ())]))
        place = worker.ran.pop(fields["batch"], None)
        for job in filter(None, map(self._jobs.get, jobs)):
            job.meet(worker)
            job.done_by.add(worker)
            job.batches.add(fields["batch"])
            if place is not None:
                job.add(place._replace(jobs=len(jobs)))
        self._done[fields["batch"]] = worker, place, len(jobs)
        while len(self._done) > MAX_BATCHES:
            self._done.popitem(last=False)


class Hearers:
    """Passes what happens on to the relay, the printouts and the log of the server.

    Runs hear of nothing printed: they have logs of their own.
    """

    def __init__(self, relay: Listener, printouts: Printouts, log: DayLog) -> None:
        self._relay, self._printouts, self._log = relay, printouts, log

    def take(self, time_s: float, event: str, fields: Fields) -> None:
        """Take in an event."""
        self._printouts.take(time_s, event, fields)
        self._log.take(event, fields)
        if event != "printed":
            self._relay.take(time_s, event, fields)

    def fact(self, kind: str, fields: Fields) -> None:
        """Take in what the provenance of outputs is made of."""
        self._printouts.fact(kind, fields)
        self._relay.fact(kind, fields)
