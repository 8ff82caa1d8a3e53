"""A run foretold: what would be served how, how long it takes, and what is not known. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.frontends.commandline.plan.flow import Flow, Limits, SnakemakesPace
from snakemake_executor_gpupool.frontends.commandline.plan.foresight import ForeseenJobs
from snakemake_executor_gpupool.frontends.commandline.plan.to_come import JobsToCome
from snakemake_executor_gpupool.frontends.commandline.plan.workload import (
    Source,
    Workload,
    workload_of,
)
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.records.runs.history import History
from snakemake_executor_gpupool.runtime.expected import ModelTally, Pace
from snakemake_executor_gpupool.scheduling.core import Setup
from snakemake_executor_gpupool.scheduling.models.figures import Figures

#: From the pool's end to the end of Snakemake's process.
EXIT_S = 0.6
#: How far times have been off where all was measured or read, and where some of it is from how
#: earlier jobs were; see docs/planning.md.
MEASURED_SPREAD, ESTIMATED_SPREAD = (0.8, 1.25), (0.65, 1.6)


UNKNOWN_TIME = Source.UNKNOWN.value


@dataclass
class RulePlan:
    """What is planned for the jobs of one rule.

    Attributes
    ----------
    items, computed
        Of all its jobs, and those of them that nobody else has asked for before.
    source
        Where items come from.
    seconds, time_source
        What one of its jobs takes if they are not served, and where that comes from.
    refused
        Why jobs of it cannot be done, with how many they are.
    waiting
        How many wait for jobs that cannot be done.
    """

    rule: str
    way: Way
    jobs: int = 0
    tool: str = ""
    models: set[str] = field(default_factory=set)
    items: int = 0
    computed: int = 0
    source: Source | None = None
    seconds: float | None = None
    time_source: str = ""
    refused: Counter[str] = field(default_factory=Counter)
    waiting: int = 0


@dataclass
class Outcome:
    """One plan.

    Attributes
    ----------
    wall_s, low_s, high_s
        How long the whole command takes, from its start to its end; None: not known.
    run_s
        Of it, with the pool open.
    known_s
        How long it takes as far as the graph is known, where checkpoints are all that is not.
    unknown
        Why it is not known.
    turnaround_s
        What Snakemake is taken to need between a job and those that wait for it; None: a guess.
    """

    devices: Sequence[Device]
    rules: list[RulePlan] = field(default_factory=list)
    models: list[ModelTally] = field(default_factory=list)
    busy_s: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    merging: list[str] = field(default_factory=list)
    wall_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    run_s: float = 0.0
    known_s: float | None = None
    turnaround_s: float | None = None
    unknown: list[str] = field(default_factory=list)
    bundle: int = 1


def foretell(
    graph: Graph,
    foresight: ForeseenJobs,
    history: History,
    figures: Mapping[str, Figures],
    devices: Sequence[Device] | None = None,
) -> Outcome:
    """Return what a run would do on these devices; None: those that it would have."""
    devices = graph.config.devices if devices is None else tuple(devices)
    load = workload_of(graph, foresight, history, figures, devices)
    durations_s, time_sources = _durations(graph, history)
    unknown_rules = {rule for rule, source in time_sources.items() if source == UNKNOWN_TIME}
    hopeless, waiting = _hopeless(graph.jobs, load)
    jobs = [job for job in graph.jobs if job.number not in hopeless | waiting]
    flow = _flow(graph, jobs, load, history, figures, devices, durations_s, foresight)
    outcome = Outcome(tuple(devices), bundle=load.bundle)
    outcome.run_s = flow.run() if jobs else 0.0
    outcome.models = list(flow.forecast.models.values())
    outcome.busy_s, outcome.counts = flow.forecast.busy_s, flow.forecast.counts
    outcome.merging = flow.forecast.merging
    load.errors.update(flow.errors)
    outcome.rules = _rules(graph, load, hopeless, waiting, durations_s, flow.errors)
    for rule in outcome.rules:
        rule.time_source = time_sources.get(rule.rule, "")
    outcome.turnaround_s = history.turnaround_s
    outcome.unknown = _unknown(jobs, load, outcome, unknown_rules)
    if not outcome.unknown:
        _time(graph, load, outcome)
    if graph.checkpoints:
        outcome.known_s, outcome.wall_s = outcome.wall_s, None
        outcome.unknown += [
            f"checkpoint {rule} will change the graph: what follows it is not known before it "
            "has run"
            for rule in graph.checkpoints
        ]
    return outcome


def _flow(
    graph: Graph,
    jobs: Sequence[PlannedJob],
    load: Workload,
    history: History,
    figures: Mapping[str, Figures],
    devices: Sequence[Device],
    durations_s: Mapping[int, float],
    foresight: ForeseenJobs,
) -> Flow:
    config, settings = graph.config, graph.config.device_settings
    setup = Setup(
        devices=tuple(devices),
        allow_multiple_per_device=settings.allow_multiple_per_device,
        offload_strategy=settings.offload_strategy,
        dispatch=config.dispatch,
        file_workers=config.file_workers,
        figures=figures,
        processors=0 if config.nodes else config.cores,
    )
    seen_s = {str(tool): seconds for tool, seconds in foresight.start_s.items()}
    pace = Pace({**seen_s, **history.start_s}, figures=figures, batch_s=history.batch_s)
    own = SnakemakesPace()
    if history.turnaround_s is not None:
        own = SnakemakesPace(turnaround_s=history.turnaround_s)
    limits = Limits(config.cores, graph.local_cores, graph.max_jobs, graph.jobs_a_second)
    to_come = None
    if config.looks_ahead:
        to_come = JobsToCome(jobs, load.jobs, is_complete=not graph.checkpoints)
    return Flow(jobs, load.jobs, load.tools, setup, pace, durations_s, limits, own, to_come)


def _durations(graph: Graph, history: History) -> tuple[dict[int, float], dict[str, str]]:
    """Return what jobs take that are not served, and by rule where that comes from."""
    durations_s: dict[int, float] = {}
    sources: dict[str, str] = {}
    for job in graph.jobs:
        if job.way not in (Way.SERVED, Way.NOTHING):
            seconds, sources[job.rule] = _duration(job, graph, history)
            if seconds is not None:
                durations_s[job.number] = seconds
    return durations_s, sources


def _duration(job: PlannedJob, graph: Graph, history: History) -> tuple[float | None, str]:
    seen = history.rules.get(job.rule)
    recorded = graph.records_s.get(job.rule)
    if job.way is Way.LEASED and seen is not None and seen.held_s:
        return statistics.median(seen.held_s), Source.HISTORY.value
    if job.group is not None and recorded:
        # Records of a group's members begin with the group.
        return min(recorded), "Snakemake's records"
    if job.ran_s is not None:
        return job.ran_s, "Snakemake's records"
    if recorded:
        return statistics.median(recorded), "Snakemake's records"
    return None, UNKNOWN_TIME


def _hopeless(jobs: Sequence[PlannedJob], load: Workload) -> tuple[set[int], set[int]]:
    """Return the jobs that cannot be done, and those that would wait for them in vain."""
    hopeless = {job.number for job in jobs if job.refused or job.number in load.errors}
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for job in jobs:
        for before in job.after:
            readers[before].append(job.number)
    waiting: set[int] = set()
    open_ones = list(hopeless)
    while open_ones:
        for reader in readers[open_ones.pop()]:
            if reader not in hopeless | waiting:
                waiting.add(reader)
                open_ones.append(reader)
    return hopeless, waiting


def _rules(
    graph: Graph,
    load: Workload,
    hopeless: set[int],
    waiting: set[int],
    durations_s: Mapping[int, float],
    failed: Mapping[int, str],
) -> list[RulePlan]:
    plans: dict[tuple[str, Way], RulePlan] = {}
    keys: defaultdict[str, Counter[object]] = defaultdict(Counter)
    ranks = list(Source)
    for job in graph.jobs:
        plan = plans.setdefault((job.rule, job.way), RulePlan(job.rule, job.way))
        plan.jobs += 1
        if job.number in waiting:
            plan.waiting += 1
            continue
        if job.number in hopeless or job.number in failed:
            plan.refused[job.refused or load.errors[job.number]] += 1
            continue
        plan.seconds = durations_s.get(job.number, plan.seconds)
        expected = load.jobs.get(job.number)
        if expected is None or job.request is None:
            continue
        plan.tool = str(job.request.tool)
        plan.models.add(expected.model.label)
        plan.items += load.items[job.number]
        source = load.sources[job.number]
        plan.source = max(plan.source or source, source, key=ranks.index)
        head = expected.model.model, expected.model.group
        keys[job.rule].update((*head, key) for key in expected.items.keys)
    seen: set[object] = set()
    for plan in plans.values():
        if plan.way is Way.SERVED and keys[plan.rule]:
            new = keys[plan.rule].keys() - seen
            seen |= new
            plan.computed = round(plan.items * len(new) / keys[plan.rule].total())
    return list(plans.values())


def _unknown(
    jobs: Sequence[PlannedJob],
    load: Workload,
    outcome: Outcome,
    unknown_rules: set[str],
) -> list[str]:
    """Return why the time is not known, each with what would help."""
    lines = [
        f"no figure yet for {tally.name} on {_kinds(tally)}: it has never been seen there"
        for tally in outcome.models
        if not tally.is_measured and tally.batches
    ]
    rules = {job.rule for job in jobs if load.sources.get(job.number) is Source.UNKNOWN}
    lines += [
        f"no figure yet for rule {rule}: its inputs do not exist, and no run is known in which "
        "it was served"
        for rule in sorted(rules)
    ]
    plain = unknown_rules & {job.rule for job in jobs}
    lines += [f"no figure yet for rule {rule}: it has never been run" for rule in sorted(plain)]
    return lines


def _kinds(tally: ModelTally) -> str:
    names = {name.rpartition("/")[2].partition(":")[0] for name in tally.devices}
    return ", ".join(sorted(names)) or "these devices"


def _time(graph: Graph, load: Workload, outcome: Outcome) -> None:
    around_s = graph.built_s + EXIT_S
    is_estimated = any(source is not Source.READ for source in load.sources.values())
    low, high = ESTIMATED_SPREAD if is_estimated else MEASURED_SPREAD
    outcome.wall_s = around_s + outcome.run_s
    outcome.low_s = around_s * MEASURED_SPREAD[0] + outcome.run_s * low
    outcome.high_s = around_s * MEASURED_SPREAD[1] + outcome.run_s * high
