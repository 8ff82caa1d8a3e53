"""Single jobs that nobody wants any longer, and tools of which no more jobs come."""

from __future__ import annotations

import math
import random

import pytest

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.testing.simulation import FakeItem, World
from snakemake_executor_gpupool.wire.requests import ToolRef

TOOL = ToolRef("tool", "", "python")


def drop(world: World, job_id: int) -> None:
    world.take(ev.JobUnwanted(job_id, "its client has ended"))


def retire(world: World) -> None:
    world.take(ev.ToolRetired(TOOL))
    world._act()


def test_a_job_that_waits_fails_at_once_and_its_items_are_not_computed() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    world.submit(1, ["mine", "shared"], priority=1)
    world.submit(2, ["other"])
    world.submit(3, ["shared"])
    world.at(5.0, lambda: drop(world, 2))
    world.run()
    assert world.reports[1] is None and world.reports[3] is None
    assert world.reports[2] == "rule r (job=2): its client has ended"
    assert world.report_times[2] == 5.0 and "other" not in world.computed


def test_an_item_that_another_job_waits_for_is_computed() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    world.submit(1, ["first"], priority=1)
    world.submit(2, ["shared"])
    world.submit(3, ["shared"])
    world.at(5.0, lambda: drop(world, 2))
    world.run()
    assert world.reports[3] is None and world.computed.count("shared") == 1


def test_the_same_item_asked_for_again_is_computed_then() -> None:
    """Not answered by a work item that nothing would ever compute."""
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    world.submit(1, ["first"], priority=1)
    world.submit(2, ["again"])
    world.at(5.0, lambda: drop(world, 2))
    world.at(6.0, lambda: world.submit(3, ["again"]))
    world.run()
    assert world.reports[3] is None and world.results[3] == ["result of again"]


def test_no_model_is_loaded_for_a_job_that_was_dropped_before() -> None:
    world = World(gpus=1, cpus=0, seconds_per_cost=10.0)
    world.submit(1, ["long"])
    world.at(3.0, lambda: world.submit(2, ["mine"], model="other"))
    world.at(5.0, lambda: drop(world, 2))
    world.at(15.0, lambda: world.submit(3, ["more"]))
    world.run()
    assert "its client has ended" in str(world.reports[2]) and world.reports[3] is None
    assert world.scheduler.dispatch.counts["model_loads"] == 1


def test_whoever_writes_a_dropped_job_is_ended_before_that_is_reported() -> None:
    world = World(gpus=1, write_s=10.0, stop_s=0.5, read_s=0.001)
    world.submit(1, ["mine"])
    world.submit(2, ["other"])
    world.at(5.0, lambda: drop(world, 1))
    world.run()
    assert "its client has ended" in str(world.reports[1])
    assert world.report_times[1] == pytest.approx(5.5)
    assert world.reports[2] is None, "the next process writes what waited behind it"
    assert any(stop.force for stop in world.effects(fx.StopWorker))
    assert not world.notes("job_failed")[1:]


def test_a_dropped_job_that_was_written_meanwhile_has_succeeded() -> None:
    world = World(gpus=1, write_s=3.0, stop_s=60.0)
    world.submit(1, ["mine"])
    world.at(3.0, lambda: drop(world, 1))
    world.run()
    assert world.reports[1] is None


def test_a_retired_tool_ends_and_is_forgotten() -> None:
    world = World(gpus=2)
    world.submit(1, ["a", "b"])
    world.run()
    assert world._alive
    retire(world)
    for _ in range(5):
        world.now_s += 2.0
        world.at(world.now_s, lambda: world.take(ev.TimePassed()))
        world.run()
    assert not world._alive
    assert not world.scheduler.dispatch.models and world.scheduler.files.known(TOOL) is None
    assert not any(world.allocator.allocation_map().values())


def test_a_retired_tool_first_finishes_its_jobs() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=5.0)
    world.submit(1, [f"item {n}" for n in range(4)])
    world.at(7.0, lambda: retire(world))
    world.run()
    assert world.reports[1] is None and len(world.computed) == 4


def test_a_job_that_comes_after_all_is_served() -> None:
    world = World(gpus=1, stop_s=0.5)
    world.submit(1, ["a"])
    world.run()
    retire(world)
    world.submit(2, ["b"])
    world.run()
    assert world.reports[2] is None


def test_what_was_measured_of_a_forgotten_model_is_known_when_it_comes_back() -> None:
    world = World(gpus=1, load_s=3.0)
    world.submit(1, ["a"])
    world.run()
    retire(world)
    for step in range(5):
        world.at(world.now_s + step, lambda: world.take(ev.TimePassed()))
    world.run()
    assert not world.scheduler.dispatch.models
    world.submit(2, ["b"])
    world.run()
    (model,) = world.scheduler.dispatch.models.values()
    assert model.load_s is not None and model.load_s > 2.0


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_dropped_and_retired_all_others_are_served(seed: int) -> None:
    """Jobs with common items, dropped and killed at random: the rest has its own results."""
    chance = random.Random(seed)
    config = DispatchConfig(idle=IdleTime(chance.choice([math.inf, 2.0])))
    world = World(
        gpus=chance.randint(1, 3), budget_tokens=2, seconds_per_cost=0.7, write_s=0.3, config=config
    )
    dropped = set()
    for job_id in range(30):
        items = [FakeItem(f"item {chance.randrange(20)}") for _ in range(chance.randint(1, 4))]
        start_s = chance.uniform(0.0, 15.0)
        world.at(start_s, lambda j=job_id, i=items: world.submit(j, i))
        if chance.random() < 0.5:
            dropped.add(job_id)
            world.at(start_s + chance.expovariate(0.5), lambda j=job_id: drop(world, j))
    for _ in range(4):
        world.at(chance.uniform(0.0, 20.0), lambda: retire(world))
        world.at(chance.uniform(0.0, 20.0), lambda: world.kill_one(chance.choice))
    world.run()
    assert set(world.reports) == set(range(30))
    failed = {job_id for job_id, error in world.reports.items() if error is not None}
    assert failed <= dropped
    for job_id in set(range(30)) - failed:
        wanted = [item.key for item in world._jobs[job_id][1]]
        assert world.results[job_id] == [f"result of {key}" for key in wanted]
