"""What past runs tell of the next one: by rule and by tool, with how much it varied. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.records.runs.states import Activity, JobState
from snakemake_executor_gpupool.records.runs.values import JobView, RunView, WorkerView

STARTING = (Activity.START, Activity.IMPORT)
#: From a job's end until those that read its outputs are handed out, at most: more is another wait.
MAX_TURNAROUND_S = 5.0


@dataclass
class RuleHistory:
    """What was seen of a rule's jobs.

    Attributes
    ----------
    items
        Of each job.
    duplicates
        The share of the items that somebody had asked for before.
    item_s
        Device seconds of an item, had nobody else asked for it; None: not recorded.
    item_tokens, batch_items
        Tokens of an item, and items of a micro-batch, the means.
    read_s, write_s
        Mean times of a job's files.
    held_s
        For how long each plain job had its devices.
    model
        What messages called its model, the last time.
    """

    items: list[int] = field(default_factory=list)
    duplicates: float = 0.0
    item_s: float | None = None
    item_tokens: float | None = None
    batch_items: float | None = None
    read_s: float | None = None
    write_s: float | None = None
    held_s: list[float] = field(default_factory=list)
    model: str = ""

    @property
    def usual_items(self) -> float | None:
        """Items of a job, the mean; None: no job was seen."""
        return statistics.fmean(self.items) if self.items else None


@dataclass
class History:
    """All that was seen.

    Attributes
    ----------
    start_s
        By tool, from a process's start until it has imported it.
    batch_s
        By model, what its micro-batches took, the median.
    turnaround_s
        From a job's end until those that read its outputs are handed out; None: never seen.
    runs
        How many runs there are.
    """

    rules: dict[str, RuleHistory] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    batch_s: dict[str, float] = field(default_factory=dict)
    turnaround_s: float | None = None
    runs: int = 0


def history_of(runs: Sequence[RunView]) -> History:
    """Return what runs tell, the latest last; of each rule and tool, the latest two that had it."""
    history = History(runs=len(runs))
    starts: defaultdict[str, list[float]] = defaultdict(list)
    batches: defaultdict[str, list[float]] = defaultdict(list)
    turnarounds: list[float] = []
    for run in runs:
        for tool, seconds in _starts(run):
            starts[tool].append(seconds)
        for batch in run.batches.values():
            worker = run.workers.get(batch.worker_id)
            if worker is not None and batch.seconds is not None:
                batches[worker.model].append(batch.seconds)
        turnarounds += _turnarounds(run)
    for run in reversed(runs):
        for rule, seen in _rules(run).items():
            history.rules.setdefault(rule, seen)
    history.start_s = {tool: statistics.median(seconds) for tool, seconds in starts.items()}
    history.batch_s = {model: statistics.median(seconds) for model, seconds in batches.items()}
    history.turnaround_s = statistics.median(turnarounds) if turnarounds else None
    return history


# -- rules ---------------------------------------------------------------------------
def _rules(run: RunView) -> dict[str, RuleHistory]:
    jobs: defaultdict[str, list[JobView]] = defaultdict(list)
    for job in run.jobs.values():
        if job.state is JobState.DONE and job.items is not None:
            jobs[job.rule].append(job)
    rules = {rule: _rule(run, each) for rule, each in jobs.items()}
    for lease in run.leases.values():
        held = lease.held(run.end_s)
        if lease.state is JobState.DONE and held is not None:
            rules.setdefault(lease.rule, RuleHistory()).held_s.append(held[1] - held[0])
    return rules


def _rule(run: RunView, jobs: Sequence[JobView]) -> RuleHistory:
    items = [job.items or 0 for job in jobs]
    total = sum(items)
    seen = RuleHistory(items, model=next((job.model for job in jobs if job.model), ""))
    if total:
        seen.duplicates = min(sum(job.duplicates or 0 for job in jobs) / total, 1.0)
    charged = [job for job in jobs if job.cost.device_s is not None and not job.reused]
    of_charged = sum(job.items or 0 for job in charged)
    if of_charged:
        device_s = sum((job.cost.device_s or 0.0) + job.cost.saved_s for job in charged)
        seen.item_s = device_s / of_charged
    numbers = {number for job in jobs for number in job.batches}
    batches = [run.batches[number] for number in sorted(numbers) if number in run.batches]
    # A merged dispatch counts requests, not items.
    plain = [batch for batch in batches if batch.items and not batch.stages]
    if plain:
        together = sum(batch.items for batch in plain)
        seen.item_tokens = sum(batch.tokens for batch in plain) / together
        seen.batch_items = together / len(plain)
    seen.read_s = _mean_s(jobs, Activity.READ)
    seen.write_s = _mean_s(jobs, Activity.WRITE)
    return seen


def _mean_s(jobs: Sequence[JobView], activity: Activity) -> float | None:
    spans = [
        to_s - from_s
        for job in jobs
        for what, from_s, to_s, _ in job.file_spans
        if what is activity
    ]
    return statistics.fmean(spans) if spans else None


# -- processes -----------------------------------------------------------------------
def _starts(run: RunView) -> Iterable[tuple[str, float]]:
    for worker in run.workers.values():
        seconds = _start_s(worker)
        if seconds is not None:
            yield worker.tool, seconds


def _start_s(worker: WorkerView) -> float | None:
    if worker.import_s is None:
        return None
    return sum(span.seconds(0.0) for span in worker.spans if span.activity in STARTING)


# -- Snakemake -----------------------------------------------------------------------
def _turnarounds(run: RunView) -> list[float]:
    """Return how long after the last job that it reads from each job was handed out."""
    made_at_s: dict[str, float] = {}
    for job in run.jobs.values():
        if job.state is JobState.DONE and job.done_at_s is not None:
            made_at_s.update(dict.fromkeys(job.outputs, job.done_at_s))
    for lease in run.leases.values():
        if lease.state is JobState.DONE and lease.released_at_s is not None:
            made_at_s.update(dict.fromkeys(lease.outputs, lease.released_at_s))
    gaps = []
    for job in run.jobs.values():
        ready = [made_at_s[path] for path in job.inputs if path in made_at_s]
        if ready and job.n_inputs == len(job.inputs):
            gaps.append(job.submitted_at_s - max(ready))
    return [gap for gap in gaps if 0.0 <= gap <= MAX_TURNAROUND_S]
