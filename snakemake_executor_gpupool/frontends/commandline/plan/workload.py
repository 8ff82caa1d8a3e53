"""What each served job is expected to ask for: as read, else as its rule's jobs were. Pure."""

from __future__ import annotations

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.frontends.commandline.plan.foresight import ForeseenJobs
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph, PlannedJob, Way
from snakemake_executor_gpupool.records.runs.history import History, RuleHistory
from snakemake_executor_gpupool.runtime.expected import ExpectedItems, ExpectedJob
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen
from snakemake_executor_gpupool.wire.requests import Request

#: More items are foretold in bundles: each stands for several, with their cost and tokens.
MAX_ITEMS = 60_000


class Source(enum.Enum):
    """Where a figure comes from; ``value`` is what people read. The best first."""

    READ = "read"
    #: From jobs of the same rule that were read.
    SAMPLED = "from a sample"
    HISTORY = "from earlier runs"
    UNKNOWN = "no figure yet"


@dataclass
class Workload:
    """What served jobs ask for.

    Attributes
    ----------
    jobs, tools
        As :class:`~snakemake_executor_gpupool.runtime.planned_run.PlannedRun` takes them.
    sources
        By job number, where its items come from.
    items
        By job number, how many there are.
    errors
        By job number, why it would fail.
    tokens_an_item
        How many items each foretold one stands for; 1: itself.
    """

    jobs: dict[int, ExpectedJob] = field(default_factory=dict)
    tools: dict[str, ToolInfo] = field(default_factory=dict)
    sources: dict[int, Source] = field(default_factory=dict)
    items: dict[int, int] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    bundle: int = 1


@dataclass
class _Rule:
    """What is known of one rule: what its jobs said, and what earlier ones took."""

    history: RuleHistory
    read: list[Foreseen] = field(default_factory=list)
    asked: list[Foreseen] = field(default_factory=list)
    read_bytes: int = 0

    @property
    def duplicates(self) -> float:
        """The share of items that somebody else has, too."""
        if not self.read:
            return self.history.duplicates
        keys = [(a.model.model, a.model.group, key) for a in self.read for key in a.keys]
        return 1.0 - len(set(keys)) / len(keys) if keys else 0.0


def workload_of(
    graph: Graph,
    foresight: ForeseenJobs,
    history: History,
    figures: Mapping[str, Figures],
    devices: Sequence[Device],
) -> Workload:
    """Put together what is known of all served jobs."""
    return _Maker(graph, foresight, history, figures, devices).make()


class _Maker:
    def __init__(
        self,
        graph: Graph,
        foresight: ForeseenJobs,
        history: History,
        figures: Mapping[str, Figures],
        devices: Sequence[Device],
    ) -> None:
        self._foresight, self._history, self._figures = foresight, history, figures
        self._specs = DeviceRequests(Allocator(devices))
        self._load = Workload()
        self._served = [
            job for job in graph.jobs if job.way is Way.SERVED and job.request and not job.refused
        ]
        self._rules: defaultdict[str, _Rule] = defaultdict(lambda: _Rule(RuleHistory()))

    def make(self) -> Workload:
        """Return it."""
        for tool, info in self._foresight.infos.items():
            self._load.tools[tool.spec] = info
        for job in self._served:
            self._learn(job)
        counts = {job.number: self._count(job) for job in self._served}
        total = sum(count for count, _ in counts.values())
        self._load.bundle = max(1, math.ceil(total / MAX_ITEMS))
        peers: defaultdict[str, itertools.cycle[Foreseen]] = defaultdict(
            lambda: itertools.cycle(())
        )
        for name, rule in self._rules.items():
            if rule.read or rule.asked:
                peers[name] = itertools.cycle(rule.read or rule.asked)
        for job in self._served:
            self._expect(job, *counts[job.number], peers[job.rule])
        return self._load

    def _learn(self, job: PlannedJob) -> None:
        if job.rule not in self._rules:
            history = self._history.rules.get(job.rule, RuleHistory())
            self._rules[job.rule] = _Rule(history)
        answer = self._foresight.answers.get(job.number)
        rule = self._rules[job.rule]
        if isinstance(answer, Foreseen):
            rule.asked.append(answer)
            if job.number in self._foresight.read:
                assert job.request is not None
                rule.read.append(answer)
                rule.read_bytes += job.request.input_bytes

    def _count(self, job: PlannedJob) -> tuple[int, Source]:
        """Return how many items a job has, and where that comes from."""
        assert job.request is not None
        answer, rule = self._foresight.answers.get(job.number), self._rules[job.rule]
        if isinstance(answer, Foreseen) and job.number in self._foresight.read:
            return answer.count, Source.READ if answer.is_whole else Source.SAMPLED
        if rule.read:
            counted = sum(each.count for each in rule.read)
            mean = counted / len(rule.read)
            if job.has_inputs and rule.read_bytes:
                mean = counted * job.request.input_bytes / rule.read_bytes
            return max(round(mean), 0), Source.SAMPLED
        usual = rule.history.usual_items
        return (1, Source.UNKNOWN) if usual is None else (max(round(usual), 0), Source.HISTORY)

    def _expect(
        self, job: PlannedJob, count: int, source: Source, peers: itertools.cycle[Foreseen]
    ) -> None:
        request, number = job.request, job.number
        assert request is not None
        answer, rule = self._foresight.answers.get(number), self._rules[job.rule]
        if isinstance(answer, Unforeseen):
            self._load.errors[number] = answer.error.message
            return
        info = self._foresight.infos.get(request.tool)
        if info is None:
            why = self._foresight.errors.get(request.tool, "its tool has not answered in time")
            self._load.errors[number] = why
            return
        peer = answer or next(peers, None)
        model = peer.model if peer else ModelInfo(f"?{job.rule}", "", "?", 0)
        # Params that depend on a missing file choose a model that nobody knows yet.
        items = self._items(
            job, count, source, answer or peer, self._figures_of(request, info, model)
        )
        self._load.sources[number] = source
        self._load.items[number] = count
        self._load.jobs[number] = ExpectedJob(
            model=model,
            info=info,
            items=items,
            batch_tokens=(peer.batch_tokens if peer else None) or 1,
            read_s=0.001 if rule.history.read_s is None else rule.history.read_s,
            write_s=0.001 if rule.history.write_s is None else rule.history.write_s,
        )

    def _figures_of(self, request: Request, info: ToolInfo, model: ModelInfo) -> Figures:
        try:
            spec = self._specs.spec_for(request, info)
        except ImpossibleRequest:
            return Figures()
        return self._figures.get(f"{model.model}/{self._specs.label(spec)}", Figures())

    def _items(
        self,
        job: PlannedJob,
        count: int,
        source: Source,
        like: Foreseen | None,
        figures: Figures,
    ) -> ExpectedItems:
        if source is Source.READ and like is not None and len(like.keys) == count:
            read = ExpectedItems(like.keys, like.costs, like.tokens, like.kept)
            return _bundled(read, self._load.bundle)
        rule = self._rules[job.rule]
        bundle = self._load.bundle
        places = math.ceil(count / bundle)
        if like is not None and like.costs:
            costs = tuple(itertools.islice(itertools.cycle(like.costs), places))
            tokens = tuple(itertools.islice(itertools.cycle(like.tokens), places))
            kept = round(places * like.kept / len(like.keys))
        else:
            costs = (_cost(rule.history, figures),) * places
            tokens = (max(round(rule.history.item_tokens or 1), 1),) * places
            kept = 0
        keys = _keys(job, places, rule.duplicates)
        scaled = tuple(cost * bundle for cost in costs), tuple(each * bundle for each in tokens)
        return ExpectedItems(keys, *scaled, kept)


def _bundled(items: ExpectedItems, bundle: int) -> ExpectedItems:
    """Let each item stand for several."""
    if bundle == 1:
        return items
    places = range(0, len(items.keys), bundle)
    return ExpectedItems(
        keys=tuple(items.keys[place] for place in places),
        costs=tuple(sum(items.costs[place : place + bundle]) for place in places),
        tokens=tuple(sum(items.tokens[place : place + bundle]) for place in places),
        kept=items.kept // bundle,
    )


def _keys(job: PlannedJob, count: int, duplicates: float) -> tuple[str, ...]:
    """Return keys of which so large a share is another job's, too, spread evenly.

    The others' are numbered within the rule, so that any job of it may have them first.
    """
    keys = []
    for number in range(count):
        is_shared = math.floor((number + 1) * duplicates) > math.floor(number * duplicates)
        keys.append(f"{job.rule}#{number}" if is_shared else f"{job.rule}#{job.number}.{number}")
    return tuple(keys)


def _cost(history: RuleHistory, figures: Figures) -> float:
    """Return an item's cost in its tool's unit, from the time that such items took."""
    if history.item_s is None or not figures.s_per_cost:
        return 1.0
    fixed_s = (figures.fixed_s or 0.0) / max(history.batch_items or 1.0, 1.0)
    return max(history.item_s - fixed_s, 0.0) / figures.s_per_cost
