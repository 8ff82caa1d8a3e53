"""A run's values as the page's data: few rows as objects, many as columns. Pure.

The page reads what :func:`report_data` returns as JSON. Its script has the other half of this:
``page/data.js`` reads the columns, so both change together.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from snakemake_executor_gpupool.records.report.columns import (
    NONE,
    Table,
    Texts,
    microseconds,
    ticks,
)
from snakemake_executor_gpupool.records.report.estimate import estimate
from snakemake_executor_gpupool.records.report.rules import (
    device_rows,
    model_names,
    model_rows,
    over_time,
    rule_rows,
    time_rows,
)
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, Mark, RunState
from snakemake_executor_gpupool.records.runs.values import (
    BatchView,
    JobView,
    LeaseView,
    RunView,
    WorkerView,
)

#: As the columns have them: by place.
STATES = tuple(JobState)
SPAN_KINDS = (
    *(Activity.START, Activity.IMPORT, Activity.LOAD, Activity.MOVE, Activity.AWAY),
    *(Activity.READ, Activity.WRITE, Activity.PUBLISH, Activity.STOP),
)
#: What a mark is, by the name of its event; others are notes.
MARK_KINDS = ("evicted", "worker_died", "out_of_memory", "device_refused", "note")
#: Marks of workers that their spans show already.
SHOWN_AS_SPANS = ("worker_stopping",)
#: A message is shown whole up to so many characters, as long as all of them have no more than so
#: many; then up to so many. The rest is in ``events.jsonl``.
MAX_MESSAGE, MAX_MESSAGES, MAX_FURTHER_MESSAGE = 20_000, 1_000_000, 200
#: So many paths are named in all: of many jobs, only the first ones of each.
MAX_PATHS = 80_000

JOB_COLUMNS = (
    *("id", "rule", "words", "state", "lease", "submitted", "began", "ended", "waited"),
    *("items", "duplicates", "reused", "device_us", "saved_us", "peak_mib", "energy_mj"),
    *("merged", "over", "attempt", "limit", "error", "n_inputs", "n_outputs"),
    *("inputs", "outputs", "logs"),
)


def report_data(run: RunView) -> dict[str, Any]:
    """Return the page's data of a run, as values that JSON can hold."""
    return _Writer(run).data()


class _Writer:
    """Turns one run into columns."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._start_s = run.started_at_s or 0.0
        self._texts = Texts()
        self._message_room = MAX_MESSAGES
        self._paths_each = max(1, MAX_PATHS // max(1, len(run.jobs) + len(run.leases)))
        self._rules = {name: number for number, name in enumerate(run.rules())}
        self._workers = {name: number for number, name in enumerate(run.workers)}
        self._devices = {name: number for number, name in enumerate(run.devices)}
        self._jobs = {job_id: number for number, job_id in enumerate(run.jobs)}
        self._waits_s = {job_id: run.waited_s(job_id) for job_id in run.jobs}
        self._leases = {job_id: len(run.jobs) + n for n, job_id in enumerate(run.leases)}

    def data(self) -> dict[str, Any]:
        run = self._run
        over = over_time(run)
        estimated = estimate(run)
        batches, parts = self._batches()
        data = {
            "run": self._about(),
            "ticks": ticks(run.wall_s),
            "estimate": None if estimated is None else _estimate_row(estimated),
            "rules": rule_rows(run, over, self._waits_s),
            "models": model_rows(run),
            "devices": device_rows(run),
            "times": time_rows(run),
            "workers": self._worker_rows(),
            "jobs": self._job_table(over).packed(("id", "submitted")),
            "batches": batches.packed(("id", "start")),
            "parts": parts.packed(),
            "spans": self._spans().packed(("start",)),
            "marks": self._marks().packed(),
            "holds": self._holds().packed(),
            "stages": self._stages(),
        }
        return {**data, "texts": self._texts.all()}

    def _at(self, at_s: float | None) -> int:
        return NONE if at_s is None else ticks(at_s - self._start_s)

    # -- few things, as objects ---------------------------------------------------
    def _about(self) -> dict[str, Any]:
        run = self._run
        return {
            "id": run.run_id,
            "directory": str(run.directory),
            "state": run.state.value,
            "error": run.error[:MAX_MESSAGE],
            "started_at_s": run.started_at_s,
            "wall_s": run.wall_s,
            "is_over": run.state is not RunState.GOING,
            "frontend": run.frontend,
            "host": run.host,
            "cwd": run.cwd,
            "options": [[name, _plain(value)] for name, value in run.options.items()],
            "versions": list(map(list, run.versions.items())),
            "driver": run.driver,
            "simulated": run.simulated,
            "notes": [note[:1].upper() + note[1:] for note in run.notes],
            "summary": run.summary,
        }

    def _worker_rows(self) -> list[dict[str, Any]]:
        colours = {name: number for number, name in enumerate(model_names(self._run))}
        return [self._worker_row(worker, colours) for worker in self._run.workers.values()]

    def _worker_row(self, worker: WorkerView, colours: dict[str, int]) -> dict[str, Any]:
        known = [self._devices[name] for name in worker.devices if name in self._devices]
        return {
            "name": worker.worker_id,
            "tool": worker.tool,
            "model": worker.model,
            "colour": colours.get(worker.model or worker.tool, 0),
            "devices": known,
            "for_files": worker.is_for_files,
            "node": worker.node,
            "pid": worker.pid,
            "start": self._at(worker.started_at_s),
            "end": self._at(worker.ended_at_s),
            "import_s": worker.import_s,
            "load_s": worker.load_s,
            "peak_mib": worker.peak_mib,
            "versions": list(map(list, worker.versions.items())),
            "reason": worker.end_reason,
            "crashed": worker.is_crash,
            "log": worker.log,
        }

    # -- jobs ------------------------------------------------------------------------
    def _job_table(self, over: set[int]) -> Table:
        table = Table(JOB_COLUMNS)
        for job in self._run.jobs.values():
            table.add(**self._job_row(job), over=int(job.job_id in over))
        for lease in self._run.leases.values():
            table.add(**self._lease_row(lease), over=0)
        return table

    def _job_row(self, job: JobView) -> dict[str, Any]:
        cost = job.cost
        return self._common(job) | {
            "lease": 0,
            "submitted": self._at(job.submitted_at_s),
            "began": self._at(job.started_at_s),
            "ended": self._at(job.done_at_s),
            "waited": ticks(self._waits_s[job.job_id]),
            "items": _or_none(job.items),
            "duplicates": _or_none(job.duplicates),
            "reused": _or_none(job.reused),
            "device_us": microseconds(cost.device_s),
            "saved_us": microseconds(cost.saved_s),
            "peak_mib": _or_none(cost.peak_mib),
            "energy_mj": NONE if cost.energy_j is None else round(cost.energy_j * 1000),
            "merged": _or_none(job.merged_into),
            "attempt": job.attempt,
            "limit": ticks(job.limit_s),
        }

    def _lease_row(self, lease: LeaseView) -> dict[str, Any]:
        held = lease.held(self._run.end_s)
        waited_to_s = lease.granted_at_s or lease.released_at_s or self._run.end_s
        device_s = None if held is None else (held[1] - held[0]) * len(lease.devices)
        return self._common(lease) | {
            "lease": 1,
            "submitted": self._at(lease.requested_at_s),
            "began": self._at(lease.granted_at_s),
            "ended": self._at(lease.released_at_s),
            "waited": ticks(waited_to_s - lease.requested_at_s),
            "items": NONE,
            "duplicates": NONE,
            "reused": NONE,
            "device_us": microseconds(device_s),
            "saved_us": 0,
            "peak_mib": NONE,
            "energy_mj": NONE,
            "merged": NONE,
            "attempt": 1,
            "limit": NONE,
        }

    def _common(self, job: JobView | LeaseView) -> dict[str, Any]:
        words = ", ".join(f"{name}={value}" for name, value in job.wildcards.items())
        if not words and job.title not in ("", job.rule, f"rule {job.rule}"):
            words = job.title
        return {
            "id": job.job_id,
            "rule": self._rules[job.rule],
            "words": words,
            "state": STATES.index(job.state),
            "error": self._message(job.error),
            "n_inputs": job.n_inputs or len(job.inputs),
            "n_outputs": job.n_outputs or len(job.outputs),
            "inputs": "\n".join(job.inputs[: self._paths_each]),
            "outputs": "\n".join(job.outputs[: self._paths_each]),
            "logs": "\n".join(job.logs[: self._paths_each]),
        }

    def _message(self, text: str) -> int:
        """Return the number of a message; many long ones are cut, so that the page stays small."""
        most = MAX_MESSAGE if len(text) <= self._message_room else MAX_FURTHER_MESSAGE
        if len(text) > most:
            text = f"{text[: most * 3 // 4]}\n… cut, see events.jsonl …\n{text[-most // 4 :]}"
        self._message_room -= len(text)
        return self._texts.number(text)

    # -- what workers were at ----------------------------------------------------------
    def _batches(self) -> tuple[Table, Table]:
        names = ("id", "worker", "start", "ticks", "us", "items", "tokens", "longest", "padded")
        more = ("parts", "failed", "lost", "going", "peak_mib", "energy_mj", "overhead_us")
        table, parts = Table((*names, *more)), Table(("job", "share"))
        known = (b for b in self._run.batches.values() if b.worker_id in self._workers)
        for batch in sorted(known, key=lambda batch: batch.started_at_s):
            table.add(**self._batch_row(batch), parts=self._parts(batch, parts))
        return table, parts

    def _batch_row(self, batch: BatchView) -> dict[str, Any]:
        end_s = self._run.end_s if batch.ended_at_s is None else batch.ended_at_s
        overhead_s = sum(batch.overhead_s.values())
        return {
            "id": batch.batch_id,
            "worker": self._workers[batch.worker_id],
            "start": self._at(batch.started_at_s),
            "ticks": ticks(end_s - batch.started_at_s),
            "us": microseconds(batch.seconds),
            "items": batch.items,
            "tokens": batch.tokens,
            "longest": batch.longest_tokens,
            "padded": _or_none(batch.padded_tokens),
            "failed": batch.failed_items,
            "lost": int(batch.is_lost),
            "going": int(batch.ended_at_s is None),
            "peak_mib": _or_none(batch.peak_mib),
            "energy_mj": NONE if batch.energy_j is None else round(batch.energy_j * 1000),
            "overhead_us": microseconds(overhead_s),
        }

    def _parts(self, batch: BatchView, parts: Table) -> int:
        """Append who was in a batch, and with what share of its device time, in thousandths."""
        whole_s = sum(filter(None, batch.jobs.values())) + sum(batch.overhead_s.values())
        members = sorted((self._jobs[j], s) for j, s in batch.jobs.items() if j in self._jobs)
        numbers = [number for number, _ in members]
        parts.columns["job"] += [b - a for a, b in pairwise([0, *numbers])]
        parts.columns["share"] += [
            NONE if share_s is None or not whole_s else round(1000 * share_s / whole_s)
            for _, share_s in members
        ]
        return len(members)

    def _spans(self) -> Table:
        table = Table(("worker", "kind", "start", "ticks", "job"))
        spans = [
            (self._at(span.from_s), number, span)
            for number, worker in enumerate(self._run.workers.values())
            for span in worker.all_spans()
            if span.activity in SPAN_KINDS
        ]
        for start, number, span in sorted(spans, key=lambda each: each[:2]):
            job = NONE if span.number is None else self._jobs.get(span.number, NONE)
            length = ticks(span.seconds(self._run.end_s))
            kind = SPAN_KINDS.index(span.activity)
            table.add(worker=number, kind=kind, start=start, ticks=length, job=job)
        return table

    def _marks(self) -> Table:
        table = Table(("time", "kind", "worker", "device", "text"))
        for number, worker in enumerate(self._run.workers.values()):
            for mark in worker.marks:
                if mark.kind not in SHOWN_AS_SPANS:
                    self._mark(table, mark, number, NONE)
        for mark in self._run.marks:
            known = [self._devices[name] for name in mark.devices if name in self._devices]
            for device in known or [NONE]:
                self._mark(table, mark, NONE, device)
        return table

    def _mark(self, table: Table, mark: Mark, worker: int, device: int) -> None:
        kind = mark.kind if mark.kind in MARK_KINDS else "note"
        text = self._message(mark.text or mark.kind)
        number = MARK_KINDS.index(kind)
        table.add(time=self._at(mark.at_s), kind=number, worker=worker, device=device, text=text)

    def _holds(self) -> Table:
        """Return which plain GPU job held which device, from when to when."""
        table = Table(("device", "start", "ticks", "job"))
        for lease in self._run.leases.values():
            held = lease.held(self._run.end_s)
            if held is None:
                continue
            start, length = self._at(held[0]), ticks(held[1] - held[0])
            for name in lease.devices:
                if name in self._devices:
                    device, job = self._devices[name], self._leases[lease.job_id]
                    table.add(device=device, start=start, ticks=length, job=job)
        return table

    def _stages(self) -> list[list[Any]]:
        """Return the merged dispatches: each batch, with its jobs of each rule, stage by stage."""
        merged = []
        for batch in self._run.batches.values():
            rules = Counter(_rule_of(title) for _, title in batch.stages)
            if rules:
                merged.append([batch.batch_id, list(map(list, rules.items()))])
        return merged


def _rule_of(title: str) -> str:
    """Return the rule of a job that messages call so."""
    return title.removeprefix("rule ").partition(" (")[0]


def _or_none(number: int | None) -> int:
    return NONE if number is None else number


def _plain(value: Any) -> Any:
    if value == sys.maxsize:  # as Snakemake has it
        return "unlimited"
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _estimate_row(measured: Any) -> dict[str, Any]:
    estimated = ("import_s", "load_s", "inference_s", "wall_s")
    own = ("own_import_s", "own_load_s", "own_inference_s", "own_s")
    row = {name: getattr(measured, name) for name in (*estimated, *own)}
    shares = [asdict(share) for share in measured.shares]
    return {**row, "devices": measured.devices, "gaps": measured.gaps, "shares": shares}
