"""What one process per job would have taken, from what this run has measured. Pure.

::

    one process per job = sum over finished served jobs of
                              (import of its tool + load of its model + inference of its items)
                          / devices that the served jobs used

    this run            = time that workers on these devices were at
                              (start and import, load and moves, computing)
                          / these devices

Both leave out when devices were idle, and what other rules took. Import is with the start of the
process.

Import and load are medians over the workers of the tool and of the model. The inference of a job
is what it was charged of its batches, and what it was spared because others had asked for the
same items: a process of its own would have computed these, too. Reading and writing are not
counted, nor is Snakemake's own process for each job, nor that such a process fills no batch: the
estimate is rather too low than too high. Where something was not measured, it counts
as nothing, and :attr:`Estimate.gaps` says so.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from snakemake_executor_gpupool.records.runs.spans import union_s
from snakemake_executor_gpupool.records.runs.states import Activity, JobState
from snakemake_executor_gpupool.records.runs.values import JobView, RunView, WorkerView

#: Between the tools of a worker that has several.
CHAINED = " + "
IMPORTING = (Activity.START, Activity.IMPORT)
PARTS = {
    **dict.fromkeys(IMPORTING, "import"),
    **dict.fromkeys((Activity.LOAD, Activity.MOVE), "load"),
}


@dataclass
class Share:
    """What the jobs of one model would have taken.

    Attributes
    ----------
    import_s, load_s
        For one job: medians over ``imports`` and ``loads`` measured ones; None: none was measured.
        Import is from the start of the process on.
    inference_s
        For all jobs together.
    """

    tool: str
    model: str
    jobs: int
    import_s: float | None
    imports: int
    load_s: float | None
    loads: int
    inference_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all jobs, one after the other."""
        return self.jobs * ((self.import_s or 0.0) + (self.load_s or 0.0)) + self.inference_s


@dataclass
class Estimate:
    """The estimate, by model, and what it stands on.

    Attributes
    ----------
    devices
        How many such processes could have run at a time.
    own_import_s, own_load_s, own_inference_s
        What this run's workers took instead, over these devices.
    gaps
        What it leaves out, as sentences.
    """

    devices: int
    own_import_s: float = 0.0
    own_load_s: float = 0.0
    own_inference_s: float = 0.0
    shares: list[Share] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    @property
    def import_s(self) -> float:
        """Wall seconds of all imports."""
        return sum(s.jobs * (s.import_s or 0.0) for s in self.shares) / self.devices

    @property
    def load_s(self) -> float:
        """Wall seconds of all loads."""
        return sum(s.jobs * (s.load_s or 0.0) for s in self.shares) / self.devices

    @property
    def inference_s(self) -> float:
        """Wall seconds of all inference."""
        return sum(s.inference_s for s in self.shares) / self.devices

    @property
    def wall_s(self) -> float:
        """How long the jobs would have taken."""
        return sum(s.total_s for s in self.shares) / self.devices

    @property
    def own_s(self) -> float:
        """How long they took in this run."""
        return self.own_import_s + self.own_load_s + self.own_inference_s


def estimate(run: RunView) -> Estimate | None:
    """Return the estimate; None if no served job has finished, or nothing was measured."""
    jobs: defaultdict[tuple[str, str], list[JobView]] = defaultdict(list)
    for job in run.jobs.values():
        if job.state is JobState.DONE:
            jobs[job.tool, job.model].append(job)
    if not jobs or all(job.cost.device_s is None for each in jobs.values() for job in each):
        return None
    used = {name for batch in run.batches.values() for name in _devices_of(run, batch.worker_id)}
    total = Estimate(max(len(used), 1))
    own_s = _own_times(run, used)
    total.own_import_s, total.own_load_s = own_s["import"], own_s["load"]
    total.own_inference_s = own_s["inference"]
    for (tool, model), group in jobs.items():
        total.shares.append(_share(run, tool, model, group))
    total.gaps = _gaps(run, total, [job for group in jobs.values() for job in group])
    return total


def _own_times(run: RunView, devices: set[str]) -> dict[str, float]:
    """Return the seconds that a device's workers took to import, to load and to compute: the mean.

    Where several workers were at something at once on a device, as they may be on a processor's,
    that time counts once, and each of them with its share.
    """
    parts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, part, from_s, to_s in _own_spans(run):
        parts[name][part] += to_s - from_s
        spans[name].append((from_s, to_s))
    means_s = dict.fromkeys(("import", "load", "inference"), 0.0)
    for name in devices:
        together_s = sum(parts[name].values())
        for part, seconds in parts[name].items():
            if together_s:
                means_s[part] += seconds * union_s(spans[name]) / together_s / len(devices)
    return means_s


def _own_spans(run: RunView) -> Iterator[tuple[str, str, float, float]]:
    """Yield what workers were at on each device: import, load or inference, from when to when."""
    for worker in run.workers.values():
        for span in worker.all_spans():
            part = PARTS.get(span.activity)
            for name in worker.devices if part else ():
                yield name, str(part), span.from_s, span.from_s + span.seconds(run.end_s)
    for batch in run.batches.values():
        to_s = run.end_s if batch.ended_at_s is None else batch.ended_at_s
        from_s = batch.started_at_s if batch.seconds is None else to_s - batch.seconds
        for name in _devices_of(run, batch.worker_id):
            yield name, "inference", from_s, max(to_s, from_s)


def _devices_of(run: RunView, worker_id: str) -> tuple[str, ...]:
    worker = run.workers.get(worker_id)
    return worker.devices if worker is not None else ()


def _share(run: RunView, tool: str, model: str, jobs: list[JobView]) -> Share:
    workers = [worker for worker in run.workers.values() if worker.tool == tool]
    imports = _measured(map(_import_s, workers))
    loads = _measured(worker.load_s for worker in _with_model(run.workers.values(), model))
    if not loads:
        loads = _shares_of_loads(run, jobs)
    return Share(
        tool=tool,
        model=model,
        jobs=len(jobs),
        import_s=statistics.median(imports) if imports else None,
        imports=len(imports),
        load_s=statistics.median(loads) if loads else None,
        loads=len(loads),
        inference_s=sum((job.cost.device_s or 0.0) + job.cost.saved_s for job in jobs),
    )


def _import_s(worker: WorkerView) -> float | None:
    """Return what a worker took to start and import its tool; None if it is not known."""
    if worker.import_s is None:
        return None
    spent_s = [span.seconds(0.0) for span in worker.spans if span.activity in IMPORTING]
    return max(sum(spent_s), worker.import_s)


def _with_model(workers: Iterable[WorkerView], model: str) -> list[WorkerView]:
    return [worker for worker in workers if worker.devices and worker.model == model]


def _shares_of_loads(run: RunView, jobs: list[JobView]) -> list[float]:
    """Return what one of several models took to load on the workers of merged dispatches."""
    names = {
        run.batches[batch_id].worker_id
        for job in jobs
        for batch_id in job.batches
        if batch_id in run.batches
    }
    workers = [run.workers[name] for name in sorted(names) if name in run.workers]
    return [
        worker.load_s / (worker.tool.count(CHAINED) + 1)
        for worker in workers
        if worker.load_s is not None
    ]


def _measured(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _gaps(run: RunView, total: Estimate, jobs: list[JobView]) -> list[str]:
    gaps = []
    if any(share.import_s is None for share in total.shares):
        gaps.append("No import was measured for some tools: it counts as nothing.")
    if any(share.load_s is None for share in total.shares):
        gaps.append("No load was measured for some models: it counts as nothing.")
    reused = sum(job.reused or 0 for job in jobs)
    if reused:
        gaps.append(
            f"{reused} results came from earlier runs: what computing them takes is not known, "
            "and counts as nothing."
        )
    if any(job.merged_into is not None for job in jobs):
        gaps.append(
            "Jobs that were merged into another's dispatch count with their own share, and their "
            "models with an even share of the load of all models of the dispatch."
        )
    if run.simulated:
        gaps.append("The devices are simulated: all of it was computed on the CPU.")
    return gaps
