"""Which model a device is taken from, and for which, where it is known what is still to come."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import pytest

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.forecast import Node
from snakemake_executor_gpupool.scheduling.outlook import FAR_S
from snakemake_executor_gpupool.testing.graph_runs import GraphRun
from snakemake_executor_gpupool.testing.graphs import Graph, GraphJob
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_outlook import both, foreseen, graph_of, loaded_models, loads_of


def evicted(run: GraphRun) -> list[str]:
    """Return the models of the workers that were evicted."""
    models = {e.worker_id: e.params.decode() for e in run.world.effects(fx.LoadModel)}
    ends = run.world.effects(fx.StopWorker)
    return [models[end.worker_id] for end in ends if end.why == "evicted"]


def test_no_further_worker_takes_a_device_that_is_needed_before_it_would_be_loaded() -> None:
    """Much waits for b; a is idle, but has a job once c's second one is done, in five seconds."""
    jobs = [("a", 1.0, []), ("c", 1.0, []), ("c", 5.0, [1]), ("a", 1.0, [2])]
    lru, ahead = both(graph_of(*jobs, *[("b", 9.0, [0])] * 4, devices=3))
    assert loaded_models(lru).count("a") == 2
    assert loaded_models(ahead).count("a") == 1
    # What saves more than both loads is worth them.
    _, ahead = both(graph_of(*jobs, *[("b", 9.0, [0])] * 8, devices=3))
    assert loaded_models(ahead).count("a") == 2


def test_of_several_workers_one_goes_that_is_hardly_missed() -> None:
    """a and b have two each. a is used next, for one short job, and b later, for many."""
    jobs: list[tuple[str, float, list[int]]] = [("ab"[n % 2], 6.0, []) for n in range(16)]
    jobs += [("c", 5.0, list(range(16))), ("a", 6.0, [16]), *[("b", 6.0, [17])] * 8]
    _, ahead = both(graph_of(*jobs, devices=4))
    assert loaded_models(ahead)[:5] == ["a", "b", "a", "b", "c"]
    assert evicted(ahead)[0] == "a"


def test_a_models_own_idle_workers_are_no_devices_to_spare() -> None:
    world = World(gpus=3)
    wave_of = foreseen(world, {1: Node("a", "tool"), 2: Node("b", "tool")})
    for number, model in ((1, "a"), (2, "b")):
        world.submit(number, [model], model=model, wave=wave_of[number])
    world.run(4.0)
    a, b = world.scheduler.dispatch.models.values()
    (device,) = [worker.devices[0].name for worker in a.workers.values()]
    assert world.scheduler.dispatch.scaling._needless(b) == {device: 1}


def test_devices_to_spare_go_to_those_for_whom_most_waits_also_while_nothing_is_measured() -> None:
    """Four workers of a have no job left; nothing is known of b, c and d but what waits."""
    items = {"b": 32, "c": 36, "d": 34}
    jobs = [GraphJob("e", (1.0,)), *[GraphJob("a", (2.0,) * 4) for _ in range(8)]]
    jobs += [GraphJob(model, (1.0,) * count, (0,)) for model, count in items.items()]
    graph = Graph("test", tuple(jobs), 5, 60.0, (1.0,) * len(jobs), knows_figures=False)
    _, ahead = both(graph)
    assert sorted(loaded_models(ahead)[5:10]) == ["b", "c", "c", "d", "d"]


def test_no_more_workers_are_loaded_ahead_than_pay_beside_those_that_are_there() -> None:
    """Eight seconds of work come in eight, and a load takes forty."""
    jobs = [("b", 2.0, []), ("a", 10.0, []), *[("b", 2.0, [1])] * 4]
    _, ahead = both(graph_of(*jobs, devices=4, load_s=40.0))
    assert loaded_models(ahead) == ["b", "a"]


def test_work_that_will_come_counts_on_devices_of_workers_that_are_hardly_missed() -> None:
    """Of a's four workers one has a job every four seconds, and b one of twenty after each."""
    first = list(range(16))
    jobs: list[tuple[str, float, list[int]]] = [("a", 6.0, []) for _ in first]
    for number in range(6):
        jobs += [("a", 4.0, [14 + 2 * number] if number else first), ("b", 20.0, [16 + 2 * number])]
    lru, ahead = both(graph_of(*jobs, devices=4))
    at_once = []
    for run in (lru, ahead):
        began_s = run.world.report_times[16]
        at_once.append(sum(s < began_s + 1.0 for s in loads_of(run.world, "b")))
    assert at_once[0] == 1 and at_once[1] > 1


def test_who_may_not_have_a_device_yet_is_looked_at_once_another_is_idle() -> None:
    """A second worker of b pays on e's device, which nobody will need, but not on a's."""
    jobs = [("a", 1.0, []), ("c", 1.0, []), ("c", 5.0, [1]), ("a", 1.0, [2]), ("e", 3.3, [])]
    _, ahead = both(graph_of(*jobs, *[("b", 9.0, [0])] * 4, devices=4))
    idle_s = ahead.world.report_times[4]
    assert loads_of(ahead.world, "b")[1] == pytest.approx(idle_s, abs=0.2)


def test_what_nothing_is_known_of_is_guessed_by_other_models() -> None:
    """a and c are needed again, in a while; of b many jobs wait, and loads are short or long."""
    jobs = [("a", 2.0, []), ("c", 2.0, []), *[("b", 2.0, [0, 1])] * 16]
    jobs += [("a", 2.0, [2]), ("c", 2.0, [2])]
    loads = []
    for load_s in (2.0, 50.0):
        graph = graph_of(*jobs, devices=2, load_s=load_s)
        _, ahead = both(dataclasses.replace(graph, knows_figures=False))
        loads.append(loaded_models(ahead)[2:].count("b"))
    assert loads == [2, 1]


def test_who_has_work_is_looked_at_before_a_device_loads_ahead() -> None:
    """Much waits for b when a's last job ends; c, which follows on b, was never loaded."""
    jobs: list[tuple[str, float, list[int]]] = [("a", 2.0, []) for _ in range(16)]
    jobs += [("b", 8.0, [number]) for number in range(16)]
    jobs += [("c", 1.0, [16 + number]) for number in range(16)]
    graph = dataclasses.replace(graph_of(*jobs, devices=2, load_s=30.0), knows_figures=False)
    _, ahead = both(graph)
    assert loaded_models(ahead)[:4] == ["a", "a", "b", "b"]


def test_jobs_that_each_wait_for_one_of_two_waves_are_not_ready_at_once() -> None:
    """Some wait for none of a's jobs, and some for none of b's; all wait for one of them."""
    world = World(gpus=2, start_s=0.0, load_s=10.0)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool")}
    nodes |= {3: Node("a", "tool", [1]), 4: Node("a", "tool", [2])}
    wave_of = foreseen(world, nodes)
    for number, model in ((1, "a"), (2, "b")):
        world.submit(number, [FakeItem(model, 30.0)], model=model, wave=wave_of[number])
    world.run(15.0)
    outlook = world.scheduler.outlook
    a, _ = world.scheduler.dispatch.models.values()
    assert outlook.items_imminent(a) == 0
    assert 0.0 < outlook.model_next_use_s(a) < 60.0


@pytest.mark.parametrize(("a_s", "loaded"), [(4.0, ["a", "b"]), (20.0, ["a", "a"])])
def test_a_device_loads_what_follows_unless_one_more_worker_saves_more(
    a_s: float, loaded: list[str]
) -> None:
    """Ten jobs go through x, a and b. b waits for its load, as a's second worker would."""
    jobs: list[tuple[str, float, list[int]]] = []
    for number in range(10):
        first = 3 * number
        jobs += [("x", 4.0 + number % 2 / 2, []), ("a", a_s, [first]), ("b", 4.0, [first + 1])]
    _, ahead = both(graph_of(*jobs, devices=2, load_s=30.0))
    assert loaded_models(ahead)[2:4] == loaded


def test_of_workers_that_are_hardly_missed_one_goes_that_is_missed_least() -> None:
    """One of a's three is missed less than one of b's two, though b is used later."""
    world = World(gpus=5, start_s=0.0, load_s=20.0)
    nodes: dict[Hashable, Node] = {n: Node("ab"[n % 2], "tool") for n in range(2)}
    nodes |= {2 + n: Node("ab"[n % 2], "tool", [n % 2]) for n in range(12)}
    wave_of = foreseen(world, nodes)
    for number, seconds in ((0, 2.0), (1, 2.5)):
        items = [FakeItem(f"{number}", seconds)]
        world.submit(number, items, model="ab"[number], wave=wave_of[number])
    world.run(30.0)
    a, b = (model.key for model in world.scheduler.dispatch.models.values())
    next_use_s = world.scheduler.outlook.next_use_s
    assert next_use_s(a, 2) > next_use_s(b, 1) > FAR_S > next_use_s(b)
