"""A run in Chrome's trace event format, which Perfetto and ``chrome://tracing`` open.

Tracks: one for each device (what workers and plain jobs did on it; a second one where several
share it), one for each worker, one for each process for files. Flows lead from where a job was
read through its batches to where it was written. Counters: jobs in flight, items/s, memory.

References
----------
"Trace Event Format", the Chromium project: JSON object format, with the phases complete (X),
instant (i), counter (C), flow (s, t, f) and metadata (M). Times are microseconds, here since the
run's start.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from snakemake_executor_gpupool.records.runs.states import Activity, Mark, Span
from snakemake_executor_gpupool.records.runs.values import BatchView, JobView, RunView, WorkerView

TraceEvent = dict[str, Any]
#: Something on a device: when, what it is called, and whose it is.
Held = tuple[Span, str, str]
#: Numbers of the groups of tracks.
RUN, DEVICES, WORKERS, FILES = 1, 2, 3, 4
_GROUPS = {RUN: "run", DEVICES: "devices", WORKERS: "workers", FILES: "files read and written"}
#: With more steps than this, a job's flow leads through its first batch and its last one only.
MAX_STEPS = 100_000
#: Points of a counter; between two of them it is told no change.
MAX_POINTS = 2_000
#: Jobs that are named in what is said of a batch; of others, how many they are.
MAX_NAMED = 50


def trace_text(run: RunView) -> Iterator[str]:
    """Yield a run's trace, piece by piece."""
    about = {"run": run.run_id, "state": run.state.value, **run.versions}
    head = {"displayTimeUnit": "ms", "otherData": about}
    yield json.dumps(head)[:-1] + ', "traceEvents": [\n'
    for number, event in enumerate(trace_events(run)):
        yield ("" if number == 0 else ",\n") + json.dumps(event)
    yield "\n]}\n"


def trace_events(run: RunView) -> Iterator[TraceEvent]:
    """Yield all events of a run's trace."""
    return _Trace(run).events()


class _Trace:
    """Makes the events of one run."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._start_s = run.started_at_s or min(
            (worker.started_at_s or run.end_s for worker in run.workers.values()),
            default=run.end_s,
        )
        self._tracks: dict[str, tuple[int, int]] = {}
        #: Where each batch is drawn on its worker's track, and each job's files.
        self._batch_slices: dict[int, tuple[int, int, float]] = {}

    def _us(self, at_s: float) -> float:
        return round(1e6 * (at_s - self._start_s), 3)

    def events(self) -> Iterator[TraceEvent]:
        for pid, name in _GROUPS.items():
            yield _meta("process_name", pid, 0, name=name)
            yield _meta("process_sort_index", pid, 0, sort_index=pid)
        yield from self._devices()
        yield from self._workers()
        yield from self._flows()
        yield from self._counters()
        for mark in self._run.marks:
            yield self._instant(mark, RUN, 0, scope="g")

    # -- tracks ----------------------------------------------------------------------
    def _slice(
        self, pid: int, tid: int, name: str, span: Span, category: str, **args: Any
    ) -> TraceEvent:
        start_us = self._us(span.from_s)
        end_us = self._us(self._run.end_s if span.to_s is None else span.to_s)
        duration_us = max(round(end_us - start_us, 3), 0.0)
        event = {"ph": "X", "name": name, "cat": category, "ts": start_us, "dur": duration_us}
        return {**event, "pid": pid, "tid": tid, "args": args}

    def _instant(self, mark: Mark, pid: int, tid: int, *, scope: str) -> TraceEvent:
        event = {"ph": "i", "name": mark.kind, "cat": "mark", "ts": self._us(mark.at_s)}
        return {**event, "pid": pid, "tid": tid, "s": scope, "args": {"text": mark.text[:1000]}}

    def _held(self) -> dict[str, list[Held]]:
        """Return by device what was on it: workers at something, plain jobs."""
        held: dict[str, list[Held]] = defaultdict(list)
        for worker in self._run.workers.values():
            for span in worker.all_spans():
                if span.activity not in (Activity.IDLE, Activity.AWAY):
                    for name in worker.devices:
                        held[name].append((span, _name(span, worker), worker.worker_id))
        for lease in self._run.leases.values():
            if lease.granted_at_s is not None:
                span = Span(Activity.BATCH, lease.granted_at_s, lease.released_at_s)
                for name in lease.devices:
                    held[name].append((span, lease.title, "plain job"))
        return held

    def _devices(self) -> Iterator[TraceEvent]:
        held, tid = self._held(), 0
        for name in dict.fromkeys([*self._run.devices, *held]):
            lanes = _lanes(held[name], self._run.end_s) or [[]]
            for number, lane in enumerate(lanes):
                tid += 1
                title = name if number == 0 else f"{name} ({number + 1})"
                yield from _named_track(DEVICES, tid, title)
                for span, what, whose in lane:
                    yield self._slice(DEVICES, tid, what, span, "device", worker=whose)

    def _workers(self) -> Iterator[TraceEvent]:
        for tid, worker in enumerate(self._run.workers.values(), start=1):
            pid = FILES if worker.is_for_files else WORKERS
            self._tracks[worker.worker_id] = (pid, tid)
            on = f" on {', '.join(worker.devices)}" if worker.devices else ""
            yield from _named_track(pid, tid, f"{worker.worker_id}{on}")
            for span in worker.all_spans():
                if span.activity is not Activity.IDLE:
                    yield self._worker_slice(worker, span, pid, tid)
            for mark in worker.marks:
                yield self._instant(mark, pid, tid, scope="t")

    def _worker_slice(self, worker: WorkerView, span: Span, pid: int, tid: int) -> TraceEvent:
        args: dict[str, Any] = {}
        batch = self._run.batches.get(span.number or -1)
        if span.activity is Activity.BATCH and batch is not None:
            args = self._about(batch)
            self._batch_slices[batch.batch_id] = (pid, tid, span.from_s)
        elif span.number is not None and (job := self._run.jobs.get(span.number)) is not None:
            args = {"job": job.title}
        elif span.activity is Activity.LOAD:
            args = {"model": worker.model}
        return self._slice(pid, tid, _name(span, worker), span, span.activity.value, **args)

    def _about(self, batch: BatchView) -> dict[str, Any]:
        titles = [
            self._run.jobs[job_id].title
            for job_id in itertools.islice(batch.jobs, MAX_NAMED)
            if job_id in self._run.jobs
        ]
        if len(batch.jobs) > MAX_NAMED:
            titles.append(f"and {len(batch.jobs) - MAX_NAMED} more")
        figures = {
            "batch": batch.batch_id,
            "items": batch.items,
            "tokens": batch.tokens,
            "padding": batch.padding,
            "tokens_per_s": batch.tokens_per_s,
            "peak_mib": batch.peak_mib,
            "energy_j": batch.energy_j,
            "lost": batch.is_lost or None,
        }
        return {**{k: v for k, v in figures.items() if v is not None}, "jobs": titles}

    # -- flows -----------------------------------------------------------------------
    def _flows(self) -> Iterator[TraceEvent]:
        steps = sum(len(job.batches) for job in self._run.jobs.values())
        for job in self._run.jobs.values():
            batches = job.batches if steps <= MAX_STEPS else [*job.batches[:1], *job.batches[-1:]]
            points = sorted(set(self._points(job, batches)))
            if len(points) > 1:
                yield from self._flow(job, points)

    def _points(self, job: JobView, batches: Iterable[int]) -> Iterator[tuple[float, int, int]]:
        """Yield the slices that a job went through: when they began, and on which track."""
        for _, from_s, _, worker_id in job.file_spans:
            if worker_id in self._tracks:
                yield (from_s, *self._tracks[worker_id])
        for batch_id in batches:
            if batch_id in self._batch_slices:
                pid, tid, from_s = self._batch_slices[batch_id]
                yield from_s, pid, tid

    def _flow(self, job: JobView, points: list[tuple[float, int, int]]) -> Iterator[TraceEvent]:
        for number, (from_s, pid, tid) in enumerate(points):
            phase = "s" if number == 0 else "f" if number == len(points) - 1 else "t"
            event = {"ph": phase, "name": "job", "cat": "job", "id": job.job_id}
            place = {"ts": self._us(from_s), "pid": pid, "tid": tid, "args": {"job": job.title}}
            # Bound to the slice that begins there, not to the next one.
            yield {**event, **place, **({"bp": "e"} if phase == "f" else {})}

    # -- counters --------------------------------------------------------------------
    def _counters(self) -> Iterator[TraceEvent]:
        changes = [(job.submitted_at_s, 1) for job in self._run.jobs.values()]
        ends = (job.done_at_s for job in self._run.jobs.values())
        changes += [(end_s, -1) for end_s in ends if end_s is not None]
        in_flight = 0
        points: list[tuple[float, float]] = []
        for at_s, change in sorted(changes):
            in_flight += change
            points.append((at_s, in_flight))
        yield from self._counter("jobs in flight", "jobs", points)
        yield from self._counter("items/s", "items", self._rates())
        memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for batch in self._run.batches.values():
            worker = self._run.workers.get(batch.worker_id)
            if batch.peak_mib is not None and batch.ended_at_s is not None and worker is not None:
                for name in worker.devices:
                    memory[name].append((batch.ended_at_s, batch.peak_mib))
        for name, peaks in memory.items():
            yield from self._counter(f"peak memory {name}", "MiB", sorted(peaks))

    def _rates(self) -> list[tuple[float, float]]:
        """Return items a second in equal parts of the run, at least a second each."""
        part_s = max((self._run.end_s - self._start_s) / 200, 1.0)
        items: dict[int, int] = defaultdict(int)
        for batch in self._run.batches.values():
            if batch.ended_at_s is not None and not batch.is_lost:
                # A damaged line may say anything: what is after the end is in the last part.
                end_s = min(batch.ended_at_s, self._run.end_s)
                items[max(int((end_s - self._start_s) // part_s), 0)] += batch.items
        last = max(items, default=-1) + 1
        return [(self._start_s + n * part_s, items.get(n, 0) / part_s) for n in range(last + 1)]

    def _counter(
        self, name: str, series: str, points: list[tuple[float, float]]
    ) -> Iterator[TraceEvent]:
        step = max(len(points) // MAX_POINTS, 1)
        kept = points[::step]
        if points and kept[-1] != points[-1]:
            kept.append(points[-1])
        for at_s, value in kept:
            event = {"ph": "C", "name": name, "ts": self._us(at_s), "pid": RUN, "tid": 0}
            yield {**event, "args": {series: round(value, 3)}}


def _name(span: Span, worker: WorkerView) -> str:
    """Return what a slice is called."""
    if span.activity is Activity.BATCH:
        return worker.model or worker.worker_id
    return str(span.activity.value)


def _meta(event: str, pid: int, tid: int, **args: Any) -> TraceEvent:
    return {"ph": "M", "name": event, "pid": pid, "tid": tid, "args": args}


def _named_track(pid: int, tid: int, name: str) -> Iterator[TraceEvent]:
    yield _meta("thread_name", pid, tid, name=name)
    yield _meta("thread_sort_index", pid, tid, sort_index=tid)


def _lanes(held: list[Held], end_s: float) -> list[list[Held]]:
    """Divide what was on a device into as few tracks as have nothing at the same time."""
    lanes: list[list[Held]] = []
    free: list[tuple[float, int]] = []  # when each track is free again
    for each in sorted(held, key=lambda each: each[0].from_s):
        span = each[0]
        to_s = end_s if span.to_s is None else span.to_s
        if free and free[0][0] <= span.from_s + 1e-9:
            _, number = heapq.heappop(free)
        else:
            number = len(lanes)
            lanes.append([])
        lanes[number].append(each)
        heapq.heappush(free, (max(to_s, span.from_s), number))
    return lanes
