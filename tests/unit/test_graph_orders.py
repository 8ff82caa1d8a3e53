"""Graphs in simulated time, with jobs that are ready at the same moment in another order."""

from __future__ import annotations

import random

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.testing.graph_runs import GraphRun
from snakemake_executor_gpupool.testing.graphs import Graph, GraphJob, random_graph


def order_of(graph: Graph, shuffles: random.Random | None) -> list[int]:
    run = GraphRun(graph, looks_ahead=False, shuffles=shuffles)
    run.run()
    return [effect.request.job_id for effect in run.world.effects(fx.ReadJob)]


def test_jobs_ready_at_the_same_moment_come_in_an_order_that_is_drawn() -> None:
    first = [GraphJob("m", (1.0,)) for _ in range(4)]
    then = [GraphJob("m", (1.0,), after=(0, 1, 2, 3)) for _ in range(4)]
    graph = Graph("waves", (*first, *then), 1, 1.0, (1.0,) * 8, knows_figures=False)
    assert order_of(graph, None) == list(range(8))
    orders = {tuple(order_of(graph, random.Random(seed))) for seed in range(20)}
    assert len({order[:4] for order in orders}) > 5 < len({order[4:] for order in orders})
    assert all(set(order[:4]) == {0, 1, 2, 3} for order in orders)


def test_an_order_that_is_drawn_is_drawn_again() -> None:
    graph = random_graph(1)
    assert order_of(graph, random.Random(5)) == order_of(graph, random.Random(5))
