"""A graph of jobs, run by the scheduler in simulated time."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.graphs import Graph
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.requests import Request, ToolRef


def request_for(model: str) -> Request:
    """Return what a job will ask of its model, as a forecast has it."""
    tool = ToolRef("tool", "", "python")
    return Request(0, "", tool, b"", model.encode(), "/", loads_only=True)


def mistaken(nodes: Mapping[Hashable, Node], rng: random.Random) -> dict[Hashable, Node]:
    """Return a graph with jobs that never come, and without some; of other models and orders."""
    kinds = sorted({node.kind for node in nodes.values()})
    other = dict(zip(kinds, rng.sample(kinds, len(kinds)), strict=True))
    made: dict[Hashable, Node] = {}
    for key, node in nodes.items():
        if rng.random() < 0.2:
            continue
        kind = other[node.kind] if rng.random() < 0.5 else node.kind
        before = list(made)[-20:]
        after = rng.sample(before, min(2, len(before))) if rng.random() < 0.3 else node.after
        made[key] = Node(rng.choice((kind, kind, "")), node.tool, after)
        if rng.random() < 0.2:
            made["never", key] = Node(rng.choice((*kinds, "unknown")), node.tool, [key])
    return made


@dataclass(frozen=True)
class Outcome:
    """What a run of a graph took.

    Attributes
    ----------
    loads
        Of all workers.
    cold_loads
        Of models that no other worker had then, or was getting.
    """

    makespan_s: float
    loads: int
    cold_loads: int


class GraphRun:
    """One run of a graph.

    Parameters
    ----------
    looks_ahead
        Whether the scheduler gets a forecast.
    foretells
        Whether that says which models jobs will need of which none has come yet.
    mistakes
        Draws what is wrong with forecasts, which come late and again and again; None: nothing is.
    shuffles
        Draws in which order jobs come that are ready at the same moment; None: that of the graph.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        looks_ahead: bool,
        foretells: bool = True,
        mistakes: random.Random | None = None,
        shuffles: random.Random | None = None,
    ) -> None:
        self.graph = graph
        self._shuffles = shuffles
        truth: dict[str, float] = {}
        guess: dict[str, float] = {}
        self._items: list[list[FakeItem]] = []
        for number, (job, mistake) in enumerate(zip(graph.jobs, graph.mistakes, strict=True)):
            items = []
            for place, cost in enumerate(job.costs):
                key = f"j{number}.{place}"
                truth[key], guess[key] = cost, cost * mistake
                items.append(FakeItem(key, guess[key]))
            self._items.append(items)
        known = Figures(load_s=graph.load_s, s_per_cost=1.0)
        self.world = World(
            gpus=graph.devices,
            start_s=0.0,
            load_s=graph.load_s,
            read_s=1e-6,
            budget_tokens=4,
            dispatch_s=0.05,
            seconds_per_cost=lambda key: truth.get(key, 1.0) / guess.get(key, 1.0),
            figures=dict.fromkeys(graph.models, known) if graph.knows_figures else {},
        )
        self.world.on_report = self._ended
        self.world.on_decided = self._decided
        self._cold_loads = 0
        self._wave_of: dict[Hashable, str] = {}
        self._lacks = [len(job.after) for job in graph.jobs]
        self._readers: list[list[int]] = [[] for _ in graph.jobs]
        for number, job in enumerate(graph.jobs):
            for before in job.after:
                self._readers[before].append(number)
        if looks_ahead:
            nodes: dict[Hashable, Node] = {
                number: Node(job.model, "tool", job.after) for number, job in enumerate(graph.jobs)
            }
            if mistakes is None:
                forecast, self._wave_of = forecast_of(nodes)
                if foretells:
                    models = {job.model: request_for(job.model) for job in graph.jobs}
                    forecast = dataclasses.replace(forecast, foretold=models)
                self.world.take(ev.JobsForeseen(forecast))
            else:
                self._mislead(nodes, mistakes)

    def _mislead(self, nodes: dict[Hashable, Node], rng: random.Random) -> None:
        for _ in range(rng.choice((1, 1, 5))):
            wrong, wave_of = forecast_of(mistaken(nodes, rng), is_complete=rng.random() < 0.7)
            self._wave_of |= wave_of
            event = ev.JobsForeseen(wrong)
            at_s = rng.choice((0.0, rng.uniform(0.0, 100.0)))
            self.world.at(at_s, functools.partial(self.world.take, event))

    def run(self) -> Outcome:
        """Run all jobs."""
        for number in self._ordered([n for n, lacks in enumerate(self._lacks) if not lacks]):
            self._submit(number)
        self.world.run()
        reports = self.world.reports
        assert reports.keys() >= set(range(len(self.graph.jobs)))
        assert set(reports.values()) == {None}
        for number, items in enumerate(self._items):
            assert self.world.results[number] == [f"result of {item.key}" for item in items]
        loads = self.world.scheduler.dispatch.counts["model_loads"]
        return Outcome(max(self.world.report_times.values()), loads, self._cold_loads)

    def _decided(self, event: ev.Event, now_s: float, effects: list[fx.Effect]) -> None:
        dispatch = self.world.scheduler.dispatch
        for effect in effects:
            if isinstance(effect, fx.LoadModel):
                worker = dispatch.worker(effect.worker_id)
                self._cold_loads += not any(
                    other is not worker and (other.devices or other.has_loaded)
                    for other in worker.model.alive
                )

    def _ordered(self, numbers: list[int]) -> list[int]:
        """Return jobs that are ready at the same moment in the order in which they come."""
        return self._shuffles.sample(numbers, len(numbers)) if self._shuffles else numbers

    def _submit(self, number: int) -> None:
        model, wave = self.graph.jobs[number].model, self._wave_of.get(number, "")
        self.world.submit(number, self._items[number], model=model, wave=wave)

    def _ended(self, number: int) -> None:
        for reader in self._ordered(self._readers[number]) if number < len(self._readers) else ():
            self._lacks[reader] -= 1
            if not self._lacks[reader]:
                self.world.at(self.world.now_s, functools.partial(self._submit, reader))
