"""What a graph's runs are measured against: the fewest loads, and how soon it can be done."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest

from snakemake_executor_gpupool.testing.clairvoyant import (
    DISPATCH_S,
    ListSchedule,
    Weights,
    best_makespan,
    drawn,
    heads_and_tails,
    least_makespan,
)
from snakemake_executor_gpupool.testing.fewest_loads import fewest_loads
from snakemake_executor_gpupool.testing.graphs import Graph, GraphJob, random_graph


def small_graph(seed: int) -> Graph:
    """At most eight jobs of at most four models on at most three devices."""
    rng = random.Random(seed)
    jobs = []
    for number in range(rng.randint(2, 8)):
        after = rng.sample(range(number), rng.randint(0, min(number, 2)))
        costs = tuple(rng.choice((1.0, 2.0, 5.0)) for _ in range(rng.randint(1, 2)))
        jobs.append(GraphJob(rng.choice("abcd"), costs, tuple(sorted(after))))
    mistakes = (1.0,) * len(jobs)
    return Graph("small", tuple(jobs), rng.randint(1, 3), rng.choice((1.0, 10.0)), mistakes, True)


def every_way(graph: Graph) -> int:
    """The fewest loads, by trying every order of jobs, loads and evictions; breadth first."""
    everything = frozenset(range(len(graph.jobs)))
    states = {(frozenset[int](), frozenset[str]())}
    for loads in range(3 * len(graph.jobs)):
        states = all_after_jobs(graph, states)
        if any(done == everything for done, _ in states):
            return loads
        states = {
            (done, frozenset(kept))
            for done, loaded in states
            for model in set(graph.models) - loaded
            for kept in kept_with(loaded, model, graph.devices)
        }
    raise AssertionError("it has no end")


def kept_with(loaded: frozenset[str], model: str, devices: int) -> list[set[str]]:
    if len(loaded) < devices:
        return [{*loaded, model}]
    return [{*(loaded - {victim}), model} for victim in loaded]


def all_after_jobs(
    graph: Graph, states: set[tuple[frozenset[int], frozenset[str]]]
) -> set[tuple[frozenset[int], frozenset[str]]]:
    """Every state that jobs alone lead to: none of them has to run, though it can."""
    found, look_at = set(states), list(states)
    while look_at:
        done, loaded = look_at.pop()
        for number, job in enumerate(graph.jobs):
            if number not in done and job.model in loaded and done.issuperset(job.after):
                state = done | {number}, loaded
                if state not in found:
                    found.add(state)
                    look_at.append(state)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_fewest_loads_are_what_trying_every_way_finds(seed: int) -> None:
    graph = small_graph(seed)
    assert fewest_loads(graph) == (every_way(graph), True)


def check(graph: Graph, made: ListSchedule) -> None:
    """See that a schedule could be carried out."""
    ends_s: dict[int, float] = {}
    computed = [item for *_, items in made.done for item in items]
    assert sorted(computed) == [
        (n, place) for n, job in enumerate(graph.jobs) for place in range(len(job.costs))
    ]
    for device in range(graph.devices):
        at_s, has = 0.0, ""
        for start_s, end_s, there, model, items in made.done:
            if there != device:
                continue
            assert start_s >= at_s
            seconds = sum(graph.jobs[n].costs[place] for n, place in items) + DISPATCH_S
            assert end_s - start_s == pytest.approx(seconds if items else graph.load_s)
            assert {graph.jobs[n].model for n, _ in items} <= {model}
            assert not items or has == model
            at_s, has = end_s, model
    for _, end_s, _, _, items in made.done:
        for n, _ in items:
            ends_s[n] = max(ends_s.get(n, 0.0), end_s)
    for start_s, _, _, _, items in made.done:
        for n, _ in items:
            assert all(ends_s[before] <= start_s for before in graph.jobs[n].after)


@pytest.mark.parametrize("seed", [*range(12), 53, 67])
def test_list_schedules_can_be_carried_out_and_beat_no_bound(seed: int) -> None:
    graph, rng = random_graph(seed), random.Random(seed)
    loads, _ = fewest_loads(graph, most_states=200)
    least_s = least_makespan(graph, loads)
    for _ in range(3):
        made = ListSchedule(graph, drawn(rng), rng)
        assert made.run() >= least_s - 1e-9
        check(graph, made)


def graph_of(*jobs: tuple[str, float, list[int]], devices: int, load_s: float = 10.0) -> Graph:
    made = tuple(GraphJob(model, (seconds,), tuple(after)) for model, seconds, after in jobs)
    return Graph("test", made, devices, load_s, (1.0,) * len(made), knows_figures=True)


def test_a_row_of_jobs_takes_its_length() -> None:
    graph = graph_of(("a", 1.0, []), ("a", 2.0, [0]), ("a", 4.0, [1]), devices=3)
    heads_s, tails_s = heads_and_tails(graph)
    assert heads_s == pytest.approx([10.0, 11.05, 13.1])
    assert tails_s == pytest.approx([6.1, 4.05, 0.0])
    assert least_makespan(graph, 1) == pytest.approx(10.0 + 7.0 + 3 * DISPATCH_S)
    assert best_makespan(graph, tries=5) == pytest.approx(least_makespan(graph, 1))


def test_one_device_does_all_work_and_all_loads() -> None:
    graph = graph_of(("a", 1.0, []), ("b", 2.0, [0]), ("a", 4.0, [1]), devices=1)
    assert least_makespan(graph, 3) >= 30.0 + 7.0
    assert best_makespan(graph, tries=5) == pytest.approx(37.0 + 3 * DISPATCH_S)


def test_a_model_is_loaded_while_the_job_before_is_computed() -> None:
    graph = graph_of(("a", 30.0, []), ("b", 1.0, [0]), devices=2)
    made = ListSchedule(graph, Weights(), random.Random(0))
    assert made.run() == pytest.approx(10.0 + 31.0 + 2 * DISPATCH_S)
    assert made.loads == 2 and math.isclose(made.done[1][0], 0.0)


def test_the_ways_to_draw_loads_change_nothing_else() -> None:
    pairs = [(random_graph(seed), random_graph(seed, "even")) for seed in range(20)]
    assert all(dataclasses.replace(even, load_s=steps.load_s) == steps for steps, even in pairs)
    loads_s = [even.load_s for _, even in pairs]
    assert len(set(loads_s)) == len(loads_s)
    assert 0.0 <= min(loads_s) < 25.0 and 75.0 < max(loads_s) < 100.0
