"""Where the time of a run's devices went: for jobs, for nobody, or not at all.

A device second is a device that a worker, or a plain job, has for a second. Lines::

    jobs            shares of served jobs, as docs/costs.md divides them
    out_of_memory   items that did not fit and were tried again
    unclaimed       items that nobody waited for any more, or that no job came for
    lost            what workers were at when they died
    start, import, load, move, stop
                    what processes did beside computing
    idle            workers that had their model and nothing to compute; the way of a batch to its
                    worker and back
    leased          plain jobs on devices of their own

The first four are what devices computed: their sum is ``busy_s`` of ``summary.json``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from snakemake_executor_gpupool.records.runs.states import Activity
from snakemake_executor_gpupool.records.runs.values import BatchView, RunView, WorkerView

JOBS, LOST, IDLE, LEASED = "jobs", "lost", "idle", "leased"
BUSY = (JOBS, "out_of_memory", "unclaimed", LOST)


@dataclass
class Account:
    """Device seconds by line, and by device and line.

    Attributes
    ----------
    by_line, by_device
        Lines and devices without any are left out.
    energy_j
        Of all batches; None: of one of them it is unknown.
    """

    by_line: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_device: dict[str, dict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    energy_j: float | None = None

    @property
    def busy_s(self) -> float:
        """Device seconds that devices computed."""
        return math.fsum(self.by_line.get(line, 0.0) for line in BUSY)

    def add(self, line: str, devices: tuple[str, ...], seconds: float) -> None:
        """Book that these devices were at something for so long."""
        if seconds > 0 and devices:
            self.by_line[line] += seconds * len(devices)
            for name in devices:
                self.by_device[name][line] += seconds


def account_of(run: RunView) -> Account:
    """Return where the time of a run's devices went, up to its end or the last that was heard.

    Of a run that an older version wrote, what batches took is all booked as of jobs.
    """
    account = Account()
    for worker in run.workers.values():
        for line, seconds in _lines_of(run, worker):
            account.add(line, worker.devices, seconds)
    for lease in run.leases.values():
        held = lease.held(run.end_s)
        if held is not None:
            account.add(LEASED, lease.devices, held[1] - held[0])
    _settle_merged(run, account)
    energies = [batch.energy_j for batch in run.batches.values()]
    if energies and None not in energies:
        account.energy_j = math.fsum(each for each in energies if each is not None)
    account.by_line = dict(account.by_line)
    account.by_device = {name: dict(lines) for name, lines in account.by_device.items()}
    return account


def _lines_of(run: RunView, worker: WorkerView) -> Iterator[tuple[str, float]]:
    """Yield what a worker was at, in seconds; it has devices except while its model is away."""
    for span in worker.all_spans():
        seconds = span.seconds(run.end_s)
        if span.activity is Activity.BATCH:
            batch = run.batches.get(span.number or -1)
            yield from _lines_of_batch(batch, len(worker.devices), seconds)
        elif span.activity is not Activity.AWAY:
            yield span.activity.value, seconds


def _lines_of_batch(
    batch: BatchView | None, devices: int, span_s: float
) -> Iterator[tuple[str, float]]:
    """Yield who pays for a batch; the rest of its span is its way there and back."""
    if batch is None or not devices:
        return
    computed_s = batch.seconds or 0.0
    if batch.seconds is None and LOST not in batch.overhead_s:  # the run was killed
        yield LOST, span_s
        return
    lost_s = batch.overhead_s.get(LOST, 0.0) / devices
    for cause, device_s in batch.overhead_s.items():
        yield cause, device_s / devices
    others_s = math.fsum(batch.overhead_s.values()) / devices - lost_s
    yield JOBS, computed_s - others_s
    yield IDLE, span_s - computed_s - lost_s


def _settle_merged(run: RunView, account: Account) -> None:
    """Book what merged dispatches made beforehand for jobs that have come as of these.

    When the dispatch ended, nobody had claimed it. The jobs that did say what they paid.
    """
    for job in run.jobs.values():
        batch = run.batches.get(job.merged_into) if job.merged_into is not None else None
        if batch is None or not job.cost.device_s:
            continue
        devices = run.workers[batch.worker_id].devices
        seconds = job.cost.device_s / max(len(devices), 1)
        for lines in (account.by_line, *(account.by_device[name] for name in devices)):
            share_s = job.cost.device_s if lines is account.by_line else seconds
            lines["unclaimed"] = max(lines.get("unclaimed", 0.0) - share_s, 0.0)
            lines[JOBS] = lines.get(JOBS, 0.0) + share_s
