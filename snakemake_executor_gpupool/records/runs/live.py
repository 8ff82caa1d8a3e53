"""What a run is at right now, as ``gpupool top`` shows it: sums over its view. Pure.

Rates are those of the last :data:`WINDOW_S` seconds. What is still to be done is known of the jobs
that Snakemake has submitted; those that wait for other jobs' outputs come later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.records.runs.spans import union_s
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, Mark, RunState
from snakemake_executor_gpupool.records.runs.values import BatchView, RunView, WorkerView

#: Seconds over which shares and rates are taken.
WINDOW_S = 30.0
#: Jobs that must be finished before the rest is estimated.
MIN_FINISHED = 3
#: Half the width of an interval that holds four values of five, in standard deviations.
SPREAD = 1.28
#: Older batches in a row after which none is looked for any more: their order is that of sending.
MAX_OLDER = 64
MAX_EVENTS = 5


@dataclass(frozen=True)
class DeviceNow:
    """One device.

    Attributes
    ----------
    doing
        For people: what is on it, and what that is at.
    busy_share
        Of the last seconds, 0 to 1.
    memory_mib, memory_total_mib
        The most that its worker has held; of the card. None: unknown.
    batch
        Its micro-batch; empty: none.
    """

    name: str
    card: str
    model: str
    doing: str
    busy_share: float
    memory_mib: int | None
    memory_total_mib: int | None
    batch: str


@dataclass(frozen=True)
class RuleNow:
    """How many jobs of a rule are in which state; those that were lost or withdrawn in none."""

    rule: str
    done: int
    running: int
    waiting: int
    failed: int


@dataclass(frozen=True)
class Remaining:
    """Seconds until the known jobs are finished: likely, and four times of five between."""

    likely_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment; ``events`` are (seconds ago, text), the newest first."""

    run: str
    state: str
    simulated: bool
    elapsed_s: float
    silent_s: float
    devices: tuple[DeviceNow, ...]
    rules: tuple[RuleNow, ...]
    jobs_done: int
    jobs_known: int
    items_per_s: float
    tokens_per_s: float
    remaining: Remaining | None
    events: tuple[tuple[float, str], ...]
    notes: tuple[str, ...]


def snapshot(run: RunView, now_s: float) -> Snapshot:
    """Return what a run is at.

    Parameters
    ----------
    now_s
        Seconds since the epoch; of a run that has ended its end is taken.
    """
    if run.ended_at_s is not None:
        now_s = run.ended_at_s
    started_s = run.started_at_s or now_s
    from_s = max(now_s - WINDOW_S, started_s)
    window_s = max(now_s - from_s, 1e-3)
    recent = list(_finished_since(run, from_s))
    wanted = [job for job in run.jobs.values() if job.state is not JobState.WITHDRAWN]
    finished_s = sorted(job.done_at_s for job in wanted if job.done_at_s is not None)
    return Snapshot(
        run=run.run_id,
        state=run.state.value,
        simulated=run.simulated,
        elapsed_s=max(now_s - started_s, 0.0),
        silent_s=max(now_s - (run.last_at_s or now_s), 0.0),
        devices=tuple(_devices(run, from_s, now_s)),
        rules=tuple(_rules(run)),
        jobs_done=sum(job.state is JobState.DONE for job in run.jobs.values()),
        jobs_known=len(wanted),
        items_per_s=sum(batch.items for batch in recent) / window_s,
        tokens_per_s=sum(batch.tokens for batch in recent) / window_s,
        remaining=remaining(finished_s, len(wanted), started_s, now_s),
        events=tuple(_events(run, now_s)),
        notes=tuple(run.notes),
    )


def remaining(
    finished_s: list[float], known: int, started_s: float, now_s: float
) -> Remaining | None:
    """Estimate when the known jobs are finished, from when others of them were.

    Jobs that finish at a steady rate in a span of time vary by the root of their number; and the
    rate of late may differ from that of the whole run: the spread holds both.

    Parameters
    ----------
    finished_s
        When jobs ended, in order.
    known
        How many there are.
    """
    left = known - len(finished_s)
    if left <= 0 or len(finished_s) < MIN_FINISHED:
        return None
    late = [at_s for at_s in finished_s if at_s > now_s - WINDOW_S]
    spans = [(len(finished_s), now_s - started_s)]
    if len(late) >= MIN_FINISHED and now_s - started_s > WINDOW_S:
        spans.append((len(late), WINDOW_S))
    guesses_s, lows_s, highs_s = [], [], []
    for number, span_s in spans:
        guess_s = left * max(span_s, 1e-3) / number
        # Both what is finished and what is left vary by the roots of their numbers.
        factor = math.exp(SPREAD * math.sqrt(1 / number + 1 / left))
        guesses_s.append(guess_s)
        lows_s.append(guess_s / factor)
        highs_s.append(guess_s * factor)
    return Remaining(likely_s=guesses_s[-1], low_s=min(lows_s), high_s=max(highs_s))


def _finished_since(run: RunView, from_s: float) -> Iterator[BatchView]:
    """Yield the batches that ended since then."""
    older = 0
    for batch in reversed(run.batches.values()):
        if batch.ended_at_s is None or batch.is_lost:
            continue
        if batch.ended_at_s >= from_s:
            older = 0
            yield batch
        else:
            older += 1
            if older == MAX_OLDER:
                return


# -- devices -------------------------------------------------------------------------
def _devices(run: RunView, from_s: float, now_s: float) -> Iterator[DeviceNow]:
    # The workers of a run that was killed are gone with it, though nobody wrote that down.
    goes_on = run.state not in (RunState.KILLED, RunState.ENDED)
    alive = [w for w in run.workers.values() if w.ended_at_s is None and goes_on]
    plain = [lease for lease in run.leases.values() if lease.state is JobState.RUNNING]
    for device in run.devices.values():
        workers = [worker for worker in alive if device.name in worker.devices]
        leases = [lease for lease in plain if device.name in lease.devices]
        parts = [_doing(worker, now_s) for worker in workers]
        parts += [f"leased to {lease.title}" for lease in leases]
        held = [worker.peak_mib for worker in workers if worker.peak_mib is not None]
        yield DeviceNow(
            name=device.name,
            card=device.model,
            model=", ".join(dict.fromkeys(worker.model or worker.tool for worker in workers)),
            doing="; ".join(parts) or "free",
            busy_share=_busy_share(run, device.name, from_s, now_s),
            memory_mib=sum(held) if held else None,
            memory_total_mib=device.memory_mib,
            batch="; ".join(filter(None, (_batch(run, worker) for worker in workers))),
        )


_DOING = {
    Activity.START: "starting",
    Activity.IMPORT: "importing its tool",
    Activity.LOAD: "loading",
    Activity.BATCH: "computing",
    Activity.MOVE: "moving weights",
    Activity.IDLE: "idle",
    Activity.AWAY: "in host memory",
    Activity.STOP: "ending",
}


def _doing(worker: WorkerView, now_s: float) -> str:
    span = worker.open_span
    if span is None:
        return "starting"
    doing = _DOING.get(span.activity, span.activity.value)
    return f"{doing} for {max(now_s - span.from_s, 0.0):.0f} s"


def _batch(run: RunView, worker: WorkerView) -> str:
    span = worker.open_span
    batch = run.batches.get(span.number or -1) if span is not None else None
    if span is None or span.activity is not Activity.BATCH or batch is None:
        return ""
    jobs = len(batch.jobs)
    return f"{batch.items} items of {jobs} {'job' if jobs == 1 else 'jobs'}"


def _busy_share(run: RunView, device: str, from_s: float, now_s: float) -> float:
    """Return the share of the window in which a device computed, or was leased."""
    busy: list[tuple[float, float]] = []
    for worker in run.workers.values():
        is_over = worker.ended_at_s is not None and worker.ended_at_s < from_s
        if is_over or device not in worker.devices:
            continue
        if worker.open_span is not None and worker.open_span.activity is Activity.BATCH:
            busy.append((worker.open_span.from_s, now_s))
        for span in reversed(worker.spans):
            if span.to_s is not None and span.to_s < from_s:
                break
            if span.activity is Activity.BATCH:
                batch = run.batches.get(span.number or -1)
                to_s = now_s if batch is None else batch.computed_until_s(now_s)
                busy.append((span.from_s, to_s))
    for lease in run.leases.values():
        held = lease.held(now_s)
        if held is not None and device in lease.devices:
            busy.append(held)
    inside = [(max(a_s, from_s), min(b_s, now_s)) for a_s, b_s in busy]
    busy_s = union_s(each for each in inside if each[0] < each[1])
    return min(busy_s / max(now_s - from_s, 1e-3), 1.0)


# -- rules, events -------------------------------------------------------------------
def _rules(run: RunView) -> Iterator[RuleNow]:
    for rule, states in run.rules().items():
        yield RuleNow(
            rule=rule,
            done=states[JobState.DONE],
            running=sum(states[s] for s in (JobState.READING, JobState.RUNNING, JobState.WRITING)),
            waiting=states[JobState.WAITING],
            failed=states[JobState.FAILED],
        )


def _events(run: RunView, now_s: float) -> Iterator[tuple[float, str]]:
    marks = [*run.marks]
    for worker in run.workers.values():
        marks += [
            mark._replace(text=f"{worker.worker_id}: {mark.text}") for mark in worker.marks[-5:]
        ]
    for job in run.jobs.values():
        if job.state is JobState.FAILED:
            text = f"failed: {job.error or job.title}"
            marks.append(Mark(job.done_at_s or now_s, "job_failed", text))
    marks.sort(key=lambda mark: mark.at_s, reverse=True)
    for mark in marks[:MAX_EVENTS]:
        yield max(now_s - mark.at_s, 0.0), mark.text.partition("\n")[0]
