"""What the page says of each rule, each model and each device. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.records.runs.costs import account_of
from snakemake_executor_gpupool.records.runs.spans import union_s
from snakemake_executor_gpupool.records.runs.states import JobState
from snakemake_executor_gpupool.records.runs.values import (
    BatchView,
    JobView,
    LeaseView,
    RunView,
    WorkerView,
)

#: A job without a limit ran over time if it took more than this many times what its rule's jobs do
#: for as many items, and more than a second longer.
OVER_TIMES = 2.0
OVER_S = 1.0


def typical_item_s(jobs: Iterable[JobView]) -> float | None:
    """Return what the jobs of a rule take for an item, reading and writing included: the median."""
    per_item_s = [
        job.worked_s / job.items
        for job in jobs
        if job.state is JobState.DONE and job.worked_s is not None and job.items
    ]
    return _median(per_item_s)


def over_time(run: RunView) -> set[int]:
    """Return the jobs that ran over time: over their rule's ``runtime``, or over what is usual.

    A batch counts as what its worker was at, whether it came to its end or the worker was killed.
    """
    by_rule: defaultdict[str, list[JobView]] = defaultdict(list)
    for job in run.jobs.values():
        by_rule[job.rule].append(job)
    return {
        job.job_id
        for jobs in by_rule.values()
        for typical_s in (typical_item_s(jobs),)
        for job in jobs
        if is_over_limit(run, job) or is_over_usual(job, typical_s)
    }


def is_over_limit(run: RunView, job: JobView) -> bool:
    """Tell whether a job, or one of its batches, took longer than its rule's ``runtime``."""
    if job.limit_s is None:
        return False
    batches = filter(None, map(run.batches.get, job.batches))
    took_s = [(b.ended_at_s or run.end_s) - b.started_at_s for b in batches]
    return max([*took_s, job.worked_s or 0.0]) > job.limit_s


def is_over_usual(job: JobView, typical_s: float | None) -> bool:
    """Tell whether a job without a limit took much longer than its rule's do for as many items."""
    if job.limit_s is not None or job.worked_s is None or typical_s is None or not job.items:
        return False
    expected_s = typical_s * job.items
    return job.worked_s > max(OVER_TIMES * expected_s, expected_s + OVER_S)


def rule_rows(run: RunView, over: set[int], waits_s: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return a row for each rule: its jobs by state, and where its time went.

    Parameters
    ----------
    over
        The jobs that ran over time.
    waits_s
        For how long each served job waited.
    """
    served: defaultdict[str, list[JobView]] = defaultdict(list)
    leased: defaultdict[str, list[LeaseView]] = defaultdict(list)
    for job in run.jobs.values():
        served[job.rule].append(job)
    for lease in run.leases.values():
        leased[lease.rule].append(lease)
    states = run.rules()
    return [
        {"name": rule, **_states(states[rule])}
        | _served_figures(served[rule], over, waits_s)
        | _lease_figures(leased[rule])
        for rule in states
    ]


def _states(counts: Counter[JobState]) -> dict[str, int]:
    return {
        "done": counts[JobState.DONE],
        "failed": counts[JobState.FAILED],
        "withdrawn": counts[JobState.WITHDRAWN],
        "waiting": counts[JobState.WAITING],
        "running": sum(counts[s] for s in (JobState.READING, JobState.RUNNING, JobState.WRITING)),
        "lost": counts[JobState.LOST],
    }


def _served_figures(
    jobs: Sequence[JobView], over: set[int], waits_s: Mapping[int, float]
) -> dict[str, Any]:
    finished = [job for job in jobs if job.state is JobState.DONE]
    costs = [job.cost.device_s for job in jobs if job.cost.device_s is not None]
    waits = [waits_s[job.job_id] for job in finished]
    return {
        "tools": sorted({job.tool for job in jobs if job.tool}),
        "models": sorted({job.model for job in jobs if job.model}),
        "items": sum(job.items or 0 for job in jobs),
        "duplicates": sum(job.duplicates or 0 for job in jobs),
        "reused": sum(job.reused or 0 for job in jobs),
        "saved_s": sum(job.cost.saved_s for job in jobs),
        "device_s": sum(costs) if costs else None,
        "device_median_s": _median(costs),
        "device_most_s": max(costs, default=None),
        "wait_median_s": _median(waits),
        "worked_s": sum(job.worked_s or 0.0 for job in jobs),
        "over": sum(job.job_id in over for job in jobs),
        "retried": sum(job.attempt > 1 for job in jobs),
        "merged": sum(job.merged_into is not None for job in jobs),
    }


def _lease_figures(leases: Sequence[LeaseView]) -> dict[str, Any]:
    held = [
        (lease.released_at_s - lease.granted_at_s) * max(len(lease.devices), 1)
        for lease in leases
        if lease.granted_at_s is not None and lease.released_at_s is not None
    ]
    return {"leases": len(leases), "leased_s": sum(held), "lease_median_s": _median(held)}


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def model_names(run: RunView) -> list[str]:
    """Return the models in order of their first worker; their place says their colour."""
    names = (worker.model or worker.tool for worker in run.workers.values() if worker.devices)
    return list(dict.fromkeys(names))


def model_rows(run: RunView) -> list[dict[str, Any]]:
    """Return a row for each model: its workers, loads, batches and speed."""
    workers: defaultdict[str, list[WorkerView]] = defaultdict(list)
    for worker in run.workers.values():
        if worker.devices:
            workers[worker.model or worker.tool].append(worker)
    batches: defaultdict[str, list[BatchView]] = defaultdict(list)
    for batch in run.batches.values():
        of = run.workers.get(batch.worker_id)
        if of is not None:
            batches[of.model or of.tool].append(batch)
    return [_model_row(run, name, workers[name], batches[name]) for name in model_names(run)]


def _model_row(
    run: RunView, name: str, workers: Sequence[WorkerView], batches: Sequence[BatchView]
) -> dict[str, Any]:
    done = [batch for batch in batches if batch.seconds is not None]
    seconds = sum(batch.seconds or 0.0 for batch in done)
    imports = [worker.import_s for worker in workers if worker.import_s is not None]
    loads = [worker.load_s for worker in workers if worker.load_s is not None]
    tokens, padded = sum(b.tokens for b in done), sum(b.padded_tokens or 0 for b in done)
    width = {b.worker_id: len(run.workers[b.worker_id].devices) for b in done}
    return {
        "name": name,
        "tools": sorted({worker.tool for worker in workers}),
        "workers": len(workers),
        "crashes": sum(worker.is_crash for worker in workers),
        "loads": len(loads),
        "import_s": _median(imports),
        "load_s": _median(loads),
        "batches": len(done),
        "items": sum(batch.items for batch in done),
        "tokens": tokens,
        "padding": 1 - tokens / padded if padded and all(b.padded_tokens for b in done) else None,
        "seconds": seconds,
        "device_s": sum((b.seconds or 0.0) * width[b.worker_id] for b in done),
        "peak_mib": max((w.peak_mib for w in workers if w.peak_mib is not None), default=None),
    }


def device_rows(run: RunView) -> list[dict[str, Any]]:
    """Return a row for each device: what it is, and for how long something computed on it."""
    busy: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for batch in run.batches.values():
        worker = run.workers.get(batch.worker_id)
        for name in worker.devices if worker is not None else ():
            busy[name].append((batch.started_at_s, batch.computed_until_s(run.end_s)))
    for lease in run.leases.values():
        held = lease.held(run.end_s)
        if held is not None:
            for name in lease.devices:
                busy[name].append(held)
    wall_s = run.wall_s
    rows = []
    for device in run.devices.values():
        busy_s = union_s(busy[device.name])
        row: dict[str, Any] = {"name": device.name, "kind": device.kind, "model": device.model}
        row |= {"memory_mib": device.memory_mib, "uuid": device.uuid, "node": device.node}
        row |= {"simulated": device.simulated, "energy_j": device.energy_j, "busy_s": busy_s}
        rows.append({**row, "busy_share": min(busy_s / wall_s, 1.0) if wall_s else None})
    return rows


#: Of an account's lines, those that the page shows together, by what it calls them.
SHOWN_LINES = {
    "jobs": ("jobs",),
    "nobody": ("out_of_memory", "unclaimed", "lost"),
    "import": ("start", "import", "stop"),
    "load": ("load",),
    "move": ("move",),
    "lease": ("leased",),
    "idle": ("idle",),
}


def time_rows(run: RunView) -> list[dict[str, Any]]:
    """Return for each device where its time went, in seconds; ``empty``: nobody had it."""
    account = account_of(run)
    rows = []
    for name in run.devices:
        lines = account.by_device.get(name, {})
        row = {
            # What is left of sums to the microsecond is nothing.
            shown: round(sum(lines.get(line, 0.0) for line in together), 6)
            for shown, together in SHOWN_LINES.items()
        }
        empty_s = max(round(run.wall_s - sum(row.values()), 6), 0.0)
        rows.append({"name": name, **row, "empty": empty_s})
    return rows
