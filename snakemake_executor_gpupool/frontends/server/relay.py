"""What happens in the pool, passed on to the runs whose jobs it happens to.

A run gets the events and facts of its own jobs, under its own numbers for them, and of the
micro-batches and processes that work for them. What others pay for a shared micro-batch is left
out. A process that was there before is introduced by ``worker_attached``; a load is reported to
one run alone, the first that waited for it, so that loads add up over all runs.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from snakemake_executor_gpupool.wire.requests import stamps_of

#: Models, and micro-batches that later jobs may have results of, that are remembered; of the
#: latter together so many members.
MAX_MODELS, MAX_BATCHES, MAX_MEMBERS = 1000, 5000, 200_000
#: Added to a batch's number, so that none of a run's own batches has the same.
BATCH_OFFSET = 1_000_000_000
#: Put before a process's name, for the same reason.
PREFIX = "server."

EVENT, FACT = "event", "fact"
Fields = Mapping[str, Any]
#: What is told: whether it is an event or a fact, when, its name, its fields.
Item = tuple[str, float, str, dict[str, Any]]


class Run(Protocol):
    """Who is told of its jobs; any thread may call."""

    def put(self, item: Item) -> None:
        """Tell it something."""


@dataclass(eq=False)
class _Known:
    """What a run has been told of."""

    own_ids: dict[int, int] = field(default_factory=dict)
    workers: set[str] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    models: set[tuple[str, str]] = field(default_factory=set)
    #: What its jobs needed: stamps, and names of models.
    used: set[tuple[str, str]] = field(default_factory=set)


@dataclass(eq=False)
class _Route:
    """A job, and whose it is."""

    run: Run
    own_id: int
    stamp: str
    model: str = ""
    #: Of its end, until it is known that it was the last try.
    held: list[Item] = field(default_factory=list)


@dataclass(eq=False)
class _Worker:
    """A process."""

    name: str
    granted: Fields | None = None
    started: Fields = field(default_factory=dict)
    loaded: Fields | None = None
    remarks: list[str] = field(default_factory=list)
    #: The jobs whose files it was sent, until it has answered.
    files: dict[int, _Route] = field(default_factory=dict)


class Relay:
    """Hears of all that happens in a server's pool.

    ``take`` and ``fact`` are called by the run loop's thread, the others by any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[Run, _Known] = {}
        self._routes: dict[int, _Route] = {}
        self._workers: dict[str, _Worker] = {}
        #: Of batches that are in flight, the runs that they are computed for.
        self._in_flight: dict[int, list[Run]] = {}
        self._batches: OrderedDict[int, tuple[dict[str, Any], _Worker]] = OrderedDict()
        self._members = 0
        #: By name and software: one in two environments is two.
        self._models: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._handlers: dict[str, Callable[[float, str, Fields], None]] = {
            "device_granted": self._granted,
            "worker_started": self._started,
            "model_loaded": self._loaded,
            "stage_loaded": self._stage_loaded,
            "worker_ended": self._ended,
            "remark": self._remark,
            "batch_sent": self._sent,
            "batch_done": self._computed,
            "batch_lost": self._computed,
            "job_done": self._job_over,
            "job_failed": self._job_over,
            "job_withdrawn": self._job_over,
            "file_done": self._file_done,
            "stage_done": self._stage_done,
            "dispatch_saved": self._of_job,
            **dict.fromkeys(("job_submitted", "job_read"), self._of_job),
            **dict.fromkeys(("read_sent", "write_sent", "publish_sent"), self._file_sent),
        }

    # -- runs and their jobs ---------------------------------------------------------------
    def attach(self, run: Run) -> None:
        """Tell a run of its jobs from now on."""
        with self._lock:
            self._runs[run] = _Known()

    def detach(self, run: Run) -> None:
        """Tell a run nothing more."""
        with self._lock:
            self._runs.pop(run, None)
            self._routes = {n: route for n, route in self._routes.items() if route.run is not run}

    def add(self, job_id: int, run: Run, own_id: int, stamp: str) -> None:
        """A job is about to be submitted for a run, which calls it ``own_id``."""
        with self._lock:
            if run in self._runs:
                self._runs[run].own_ids[job_id] = own_id
                self._routes[job_id] = _Route(run, own_id, stamp)

    def close(self, job_id: int, *, is_final: bool) -> None:
        """A job has been reported; unless it is final, another try follows and nobody is told."""
        with self._lock:
            route = self._routes.pop(job_id, None)
            if route is not None and is_final:
                for item in route.held:
                    self._tell(route.run, item)

    # -- what the pool does ----------------------------------------------------------------
    def take(self, time_s: float, event: str, fields: Fields) -> None:
        """Take in an event."""
        with self._lock:
            handler = self._handlers.get(event)
            if handler is not None:
                handler(time_s, event, fields)
            elif "worker" in fields:
                self._of_worker(time_s, event, fields)

    def fact(self, kind: str, fields: Fields) -> None:
        """Take in a fact of provenance; its time is that of the event that follows it."""
        with self._lock:
            if kind == "model":
                self._models[fields["model"], fields["software"]] = dict(fields)
                while len(self._models) > MAX_MODELS:
                    self._models.popitem(last=False)
            elif kind == "batch":
                self._batch_made(fields)
            else:
                self._job_made(fields)

    def _tell(self, run: Run, item: Item) -> None:
        if run in self._runs:
            run.put(item)

    # -- processes -------------------------------------------------------------------------
    def _worker(self, fields: Fields) -> _Worker:
        name = fields["worker"]
        return self._workers.setdefault(name, _Worker(name))

    def _granted(self, time_s: float, event: str, fields: Fields) -> None:
        worker = self._worker(fields)
        worker.granted = fields
        self._of_worker(time_s, event, fields)

    def _started(self, time_s: float, event: str, fields: Fields) -> None:
        worker = self._worker(fields)
        worker.started = fields
        first = self._first_waiting(worker) if fields.get("devices") else None
        if first is not None:
            self._runs[first].workers.add(worker.name)
            if worker.granted is not None:
                self._of_worker(time_s, "device_granted", worker.granted)
            self._of_worker(time_s, event, fields)

    def _first_waiting(self, worker: _Worker) -> Run | None:
        """Return the first run with a job that waits for a worker's model, or may have some."""
        model = (worker.granted or {}).get("model", "")
        stamps = stamps_of(worker.started.get("stamp", ""))
        ours = [route for route in self._routes.values() if route.stamp in stamps[:1]]
        if len(stamps) > 1:  # a row of models, which waits for jobs of the first
            return ours[0].run if ours else None
        # Of a job that is still being read the model is not known here.
        named = [route for route in ours if route.model == model] or [
            route for route in ours if not route.model
        ]
        if named:
            return named[0].run
        # It is loaded ahead, for whoever has had such jobs before.
        had = (run for run, known in self._runs.items() if (*stamps, model) in known.used)
        return next(had, None)

    def _loaded(self, time_s: float, event: str, fields: Fields) -> None:
        self._worker(fields).loaded = fields
        self._of_worker(time_s, event, fields)

    def _stage_loaded(self, time_s: float, event: str, fields: Fields) -> None:
        worker = self._worker(fields)
        if worker.loaded is not None:
            seconds = worker.loaded["seconds"] + fields["seconds"]
            worker.loaded = {**worker.loaded, "seconds": seconds, "versions": fields["versions"]}
        self._of_worker(time_s, event, fields)

    def _ended(self, time_s: float, event: str, fields: Fields) -> None:
        self._of_worker(time_s, event, fields)
        self._workers.pop(fields["worker"], None)
        for known in self._runs.values():
            known.workers.discard(fields["worker"])

    def _remark(self, time_s: float, event: str, fields: Fields) -> None:
        self._worker(fields).remarks.append(fields["text"])
        self._of_worker(time_s, event, fields)

    def _of_worker(self, time_s: float, event: str, fields: Fields) -> None:
        """Tell those that know a worker of what happened to it."""
        for run, known in self._runs.items():
            if fields["worker"] in known.workers:
                self._tell(run, (EVENT, time_s, event, _renamed(fields)))

    def _introduce(self, run: Run, worker: _Worker, time_s: float) -> None:
        known = self._runs.get(run)
        if known is None or worker.name in known.workers:
            return
        known.workers.add(worker.name)
        names = ("worker", "tool", "pid", "devices", "node")
        fields = {name: worker.started[name] for name in names if name in worker.started}
        if worker.loaded is not None:
            fields |= {name: worker.loaded[name] for name in ("model", "seconds", "versions")}
        fields["worker"] = worker.name
        self._tell(run, (EVENT, time_s, "worker_attached", _renamed(fields)))
        for text in worker.remarks:
            told = {"worker": worker.name, "text": text}
            self._tell(run, (EVENT, time_s, "remark", _renamed(told)))

    # -- jobs and their files ----------------------------------------------------------------
    def _of_job(self, time_s: float, event: str, fields: Fields) -> None:
        route = self._routes.get(fields["job_id"])
        if route is not None:
            route.model = fields.get("model", route.model)
            self._runs[route.run].used.add((route.stamp, route.model))
            told = _renamed({**fields, "job_id": route.own_id})
            self._tell(route.run, (EVENT, time_s, event, told))

    def _stage_done(self, time_s: float, event: str, fields: Fields) -> None:
        """A stage of a merged run is done; its first job may have been reported already."""
        for run, known in self._runs.items():
            own_id = known.own_ids.get(fields["job_id"])
            if own_id is not None:
                self._introduce(run, self._worker(fields), time_s)
                self._tell(run, (EVENT, time_s, event, _renamed({**fields, "job_id": own_id})))

    def _job_over(self, time_s: float, event: str, fields: Fields) -> None:
        route = self._routes.get(fields["job_id"])
        if route is not None:
            route.held.append((EVENT, time_s, event, {**fields, "job_id": route.own_id}))

    def _file_sent(self, time_s: float, event: str, fields: Fields) -> None:
        route = self._routes.get(fields["job_id"])
        if route is not None:
            worker = self._worker(fields)
            worker.files[fields["job_id"]] = route
            self._introduce(route.run, worker, time_s)
            told = _renamed({**fields, "job_id": route.own_id})
            self._tell(route.run, (EVENT, time_s, event, told))

    def _file_done(self, time_s: float, event: str, fields: Fields) -> None:
        route = self._worker(fields).files.pop(fields["job_id"], None)
        if route is not None:
            told = _renamed({**fields, "job_id": route.own_id})
            self._tell(route.run, (EVENT, time_s, event, told))

    def _job_made(self, fields: Fields) -> None:
        """A job's outputs are in place: tell its run from what, and of that what it lacks."""
        job_id = fields["request"].job_id
        route = self._routes.get(job_id)
        known = self._runs.get(route.run) if route is not None else None
        if route is None or known is None:
            return
        self._tell_model(route.run, known, (fields["model"], fields["request"].tool.software))
        batches = []
        for number, items in fields["batches"]:
            if number not in known.batches and number in self._batches:
                self._tell_batch(route.run, known, number)
            if number in known.batches:
                batches.append((number + BATCH_OFFSET, items))
        others = [known.own_ids[n] for n in fields["duplicate_of"] if n in known.own_ids]
        told = {name: value for name, value in fields.items() if name != "request"}
        told |= {"job_id": route.own_id, "batches": batches, "duplicate_of": others}
        route.held.append((FACT, 0.0, "job", told))

    def _tell_model(self, run: Run, known: _Known, ident: tuple[str, str]) -> None:
        if ident not in known.models and ident in self._models:
            known.models.add(ident)
            self._tell(run, (FACT, 0.0, "model", self._models[ident]))

    # -- micro-batches -----------------------------------------------------------------------
    def _sent(self, time_s: float, event: str, fields: Fields) -> None:
        number, worker = fields["batch"], self._worker(fields)
        runs = self._in_flight[number] = []
        for run, known in self._runs.items():
            own = [known.own_ids[job] for job in fields["jobs"] if job in known.own_ids]
            if own:
                runs.append(run)
                self._introduce(run, worker, time_s)
                self._tell(run, (EVENT, time_s, event, _renamed({**fields, "jobs": own})))

    def _computed(self, time_s: float, event: str, fields: Fields) -> None:
        """A batch is done, or lost: each run is told what its own jobs are charged for it."""
        runs = self._in_flight.pop(fields["batch"], [])
        charged = list(zip(fields.get("jobs", ()), fields.get("device_s", ()), strict=False))
        total_s = sum(seconds for _, seconds in charged)
        for number, run in enumerate(runs):
            known = self._runs.get(run)
            if known is None:
                continue
            own = [(known.own_ids[job], s) for job, s in charged if job in known.own_ids]
            told = {name: value for name, value in fields.items() if name != "overhead_s"}
            if "jobs" in fields:
                told |= {"jobs": [job for job, _ in own], "device_s": [s for _, s in own]}
            share = sum(s for _, s in own) / total_s if total_s else 1 / len(runs)
            if len(own) < len(charged) and "items" in fields:
                told["own_items"] = round(fields["items"] * share)
            if fields.get("energy_j") is not None:
                told["energy_j"] = fields["energy_j"] * share
            if number and "lost_s" in told:  # lost once, and so told once
                told["lost_s"] = 0.0
            self._tell(run, (EVENT, time_s, event, _renamed(told)))

    def _batch_made(self, fields: Fields) -> None:
        number = fields["batch"]
        self._batches[number] = dict(fields), self._worker(fields)
        for run in self._in_flight.get(number, ()):
            known = self._runs.get(run)
            if known is not None:
                self._tell_batch(run, known, number)
        self._members += len(fields["keys"])
        while len(self._batches) > MAX_BATCHES or self._members > MAX_MEMBERS:
            _, (oldest, _) = self._batches.popitem(last=False)
            self._members -= len(oldest["keys"])

    def _tell_batch(self, run: Run, known: _Known, number: int) -> None:
        fields, worker = self._batches[number]
        known.batches.add(number)
        if worker.name not in known.workers:
            now_s = round(time.time(), 6)
            self._introduce(run, worker, now_s)
            if worker.name not in self._workers:
                over = {"worker": worker.name, "reason": "", "expected": True}
                self._tell(run, (EVENT, now_s, "worker_ended", _renamed(over)))
        self._tell(run, (FACT, 0.0, "batch", _renamed(fields)))


def _renamed(fields: Fields) -> dict[str, Any]:
    """Return fields with names of processes and batches that no run has of its own."""
    renamed = dict(fields)
    if "worker" in renamed:
        renamed["worker"] = PREFIX + renamed["worker"]
    if "batch" in renamed:
        renamed["batch"] += BATCH_OFFSET
    return renamed
