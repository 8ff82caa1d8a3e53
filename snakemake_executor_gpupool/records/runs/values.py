"""What a run was, as plain values: its jobs, workers, micro-batches, leases and devices.

Times called ``…_at_s`` are seconds since the epoch; None: not yet, or never. Durations are seconds.
A field that the run's version did not record has its default; :attr:`RunView.notes` says so.
Nothing here is written by other processes or kept in files: read it as you like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.runs.spans import union_s
from snakemake_executor_gpupool.records.runs.states import Activity, JobState, Mark, RunState, Span


@dataclass(slots=True)
class Cost:
    """What a job took of devices.

    Attributes
    ----------
    device_s
        Its share of the time of its batches, times the devices that each took. None: the run's
        version did not record it.
    kind
        The word of its devices' kind, such as ``"cuda"``; empty if no device worked for it.
    peak_mib
        The most device memory that the workers of its batches had held by then; None: unknown.
    energy_j
        Its share of the energy of its batches, as the driver counts it; None: unknown.
    saved_s
        Device seconds that it did not take, since other places had asked for the same items.
    """

    device_s: float | None = None
    kind: str = ""
    peak_mib: int | None = None
    energy_j: float | None = None
    saved_s: float = 0.0


@dataclass(slots=True)
class JobView:
    """A served job.

    Attributes
    ----------
    started_at_s
        When a process first began to work for it.
    items, duplicates, reused
        All its items; those that another place of the run had asked for before; distinct ones
        whose results an earlier run had left. None: not known (yet).
    batches
        Numbers of the micro-batches in which its items were, in order of time.
    merged_into
        The dispatch that made its outputs before it was ready; None: it had its own.
    worked_s
        Its share of batches' time plus reading and writing, as its ``benchmark:`` says.
    n_inputs, n_outputs
        How many files it has; ``inputs`` and ``outputs`` name the first ones.
    limit_s
        The most that one of its micro-batches may take, its rule's ``runtime``; None: as long as
        it does.
    submissions
        How often it was submitted; more than once: it was retried.
    """

    job_id: int
    title: str
    rule: str = ""
    wildcards: dict[str, str] = field(default_factory=dict)
    tool: str = ""
    model: str = ""
    state: JobState = JobState.WAITING
    submitted_at_s: float = 0.0
    started_at_s: float | None = None
    done_at_s: float | None = None
    items: int | None = None
    duplicates: int | None = None
    reused: int | None = None
    batches: list[int] = field(default_factory=list)
    merged_into: int | None = None
    worked_s: float | None = None
    cost: Cost = field(default_factory=Cost)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    n_inputs: int = 0
    n_outputs: int = 0
    threads: int = 1
    attempt: int = 1
    limit_s: float | None = None
    error: str = ""
    #: Where its files were read and written: (activity, from, to, worker).
    file_spans: list[tuple[Activity, float, float, str]] = field(default_factory=list)


@dataclass(slots=True)
class LeaseView:
    """A plain job that had devices of its own, or waited for them."""

    job_id: int
    title: str
    rule: str = ""
    wildcards: dict[str, str] = field(default_factory=dict)
    state: JobState = JobState.WAITING
    requested_at_s: float = 0.0
    granted_at_s: float | None = None
    released_at_s: float | None = None
    devices: tuple[str, ...] = ()
    wants: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    n_inputs: int = 0
    n_outputs: int = 0
    error: str = ""

    def held(self, end_s: float) -> tuple[float, float] | None:
        """From when to when it had its devices, up to ``end_s`` if it has them; None: never."""
        if self.granted_at_s is None:
            return None
        return self.granted_at_s, end_s if self.released_at_s is None else self.released_at_s


@dataclass(slots=True)
class BatchView:
    """A micro-batch, or a merged dispatch through several models.

    Attributes
    ----------
    started_at_s
        When its worker began with it: when it was sent, or when the one before it was done.
    jobs
        The jobs that waited for its items, and the device seconds that each was charged for it
        (None until it is done, and for older versions).
    tokens, padded_tokens, longest_tokens
        Sum over its items; what the device computes, padding included; of the longest item.
    seconds
        What its worker says that it took.
    overhead_s
        Device seconds of it that no job was charged for, by cause; see :mod:`~.costs`.
    is_lost
        Its worker ended before it was done: ``ended_at_s`` is when.
    stages
        Of a merged dispatch: (time, the job of the stage as messages call it) of each stage done.
    """

    batch_id: int
    worker_id: str
    sent_at_s: float
    started_at_s: float
    ended_at_s: float | None = None
    seconds: float | None = None
    items: int = 0
    tokens: int = 0
    padded_tokens: int | None = None
    longest_tokens: int = 0
    jobs: dict[int, float | None] = field(default_factory=dict)
    overhead_s: dict[str, float] = field(default_factory=dict)
    peak_mib: int | None = None
    energy_j: float | None = None
    failed_items: int = 0
    is_lost: bool = False
    stages: list[tuple[float, str]] = field(default_factory=list)

    def computed_until_s(self, end_s: float) -> float:
        """When its device had finished it: the answer to it may have waited to be read."""
        ended_s = end_s if self.ended_at_s is None else self.ended_at_s
        if self.seconds is None or self.is_lost:
            return ended_s
        return min(self.started_at_s + self.seconds, ended_s)

    @property
    def padding(self) -> float | None:
        """The share of the computed tokens that are padding; None: unknown."""
        if not self.padded_tokens:
            return None
        return max(1.0 - self.tokens / self.padded_tokens, 0.0)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens without padding a second; None: it is not done."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass(slots=True)
class WorkerView:
    """A worker process: one with devices holds a model, one without reads and writes files.

    Attributes
    ----------
    spans
        What it was at, one after the other; ``open_span`` is what it is at now, or was last.
    import_s, load_s
        What it says that importing its tool took, and loading its model.
    is_crash
        It ended by itself.
    log
        Its log, relative to the run's directory.
    """

    worker_id: str
    tool: str = ""
    model: str = ""
    pid: int | None = None
    node: str = ""
    devices: tuple[str, ...] = ()
    granted_at_s: float | None = None
    started_at_s: float | None = None
    ended_at_s: float | None = None
    import_s: float | None = None
    load_s: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    peak_mib: int | None = None
    spans: list[Span] = field(default_factory=list)
    open_span: Span | None = None
    marks: list[Mark] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    end_reason: str = ""
    is_crash: bool = False
    log: str = ""

    @property
    def is_for_files(self) -> bool:
        """Whether it reads and writes files, and holds no model."""
        return not self.devices

    def all_spans(self) -> Iterator[Span]:
        """Yield its spans in order, the one that goes on last."""
        yield from self.spans
        if self.open_span is not None:
            yield self.open_span


@dataclass(slots=True)
class DeviceView:
    """A device that the run managed."""

    name: str
    kind: str = ""
    model: str = ""
    memory_mib: int | None = None
    uuid: str = ""
    node: str = ""
    simulated: bool = False
    #: Read by the driver at the run's end, in joules since its start; None: unknown.
    energy_j: float | None = None


@dataclass(slots=True)
class RunView:
    """One run.

    Attributes
    ----------
    frontend
        ``"snakemake"`` or ``"python"``.
    options, versions, driver
        Those of the executor that were given; of ``gpupool``, ``python``, ``snakemake``, and of
        ``torch`` and others where a worker has said; the NVIDIA driver's.
    jobs, leases
        By job number, in order of submission.
    workers, batches
        By name and by number, in order of time.
    marks
        What happened to no worker: warnings, devices that joined, left or were refused.
    summary
        ``summary.json``; None: the run has not written it.
    notes
        What a reader should know: lines that were damaged, what an older version did not record.
    error
        Why the pool failed.
    """

    directory: Path
    run_id: str
    state: RunState = RunState.GOING
    started_at_s: float | None = None
    ended_at_s: float | None = None
    last_at_s: float | None = None
    frontend: str = ""
    host: str = ""
    pid: int | None = None
    cwd: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    driver: str = ""
    simulated: bool = False
    devices: dict[str, DeviceView] = field(default_factory=dict)
    jobs: dict[int, JobView] = field(default_factory=dict)
    leases: dict[int, LeaseView] = field(default_factory=dict)
    workers: dict[str, WorkerView] = field(default_factory=dict)
    batches: dict[int, BatchView] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def wall_s(self) -> float:
        """Seconds from the pool's opening to its end, or to the last that was heard."""
        end_s = self.ended_at_s or self.last_at_s
        if self.started_at_s is None or end_s is None:
            return 0.0
        return max(end_s - self.started_at_s, 0.0)

    @property
    def end_s(self) -> float:
        """When the run ended, or was last heard of; where its open spans are drawn to."""
        return self.ended_at_s or self.last_at_s or self.started_at_s or 0.0

    def company(self, job_id: int) -> Counter[int]:
        """Return the jobs that shared batches with a job, and how many batches with each."""
        others: Counter[int] = Counter()
        job = self.jobs.get(job_id)
        for batch_id in job.batches if job else ():
            batch = self.batches.get(batch_id)
            if batch is not None:
                others.update(other for other in batch.jobs if other != job_id)
        return others

    def waited_s(self, job_id: int) -> float:
        """Return how long nothing was done for a job between its submission and its end."""
        job = self.jobs[job_id]
        end_s = self.end_s if job.done_at_s is None else job.done_at_s
        spans = [(from_s, to_s) for _, from_s, to_s, _ in job.file_spans]
        for batch in filter(None, map(self.batches.get, job.batches)):
            spans.append((batch.started_at_s, batch.ended_at_s or end_s))
        return max(end_s - job.submitted_at_s - union_s(spans), 0.0)

    def rules(self) -> dict[str, Counter[JobState]]:
        """Return, by rule, how many jobs and leases are in each state; rules by first job."""
        counts: dict[str, Counter[JobState]] = {}
        for job in self.jobs.values():
            counts.setdefault(job.rule, Counter())[job.state] += 1
        for lease in self.leases.values():
            counts.setdefault(lease.rule, Counter())[lease.state] += 1
        return counts
