"""After a failure without --keep-going nothing new starts, and what has begun is finished."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_chains import pipeline


def withdrawn(world: World) -> set[int]:
    return {e.report.job_id for e in world.effects(fx.Report) if e.report.withdrawn}


def sent_after(world: World, moment_s: float) -> list[Any]:
    return [
        effect
        for time_s, effect in world.log
        if time_s > moment_s and isinstance(effect, (fx.RunBatch, fx.RunMerged, fx.ReadJob))
    ]


def test_no_job_starts_that_no_worker_had_anything_of() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    for job_id in range(16):
        world.submit(job_id, [f"item {job_id}"])
    world.at(25.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    assert world.scheduler.is_quiet and len(world.reports) == 16
    done = {job_id for job_id, error in world.reports.items() if error is None}
    assert 2 <= len(done) <= 5, "what a worker had in flight, and one batch beforehand"
    assert withdrawn(world) == set(range(16)) - done
    assert not sent_after(world, 25.0)
    assert (world.scheduler.jobs.served, world.scheduler.jobs.failed) == (len(done), 0)
    assert world.scheduler.jobs.withdrawn == 16 - len(done)


def test_a_job_that_has_begun_is_finished_all_of_it() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    world.submit(1, [f"long {n}" for n in range(6)], priority=1)
    world.submit(2, ["other"])
    world.at(15.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    assert world.reports[1] is None and withdrawn(world) == {2}
    assert "other" not in world.computed and len(world.computed) == 6


def test_an_item_of_all_jobs_does_not_make_them_begun() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    for job_id in range(8):
        world.submit(job_id, [FakeItem("common", 2.0), f"own {job_id}"])
    world.at(15.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    assert world.reports[0] is None
    assert len(withdrawn(world)) >= 6


def test_an_item_that_a_job_which_goes_on_waits_for_is_computed_though_another_led() -> None:
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=10.0)
    world.submit(1, [FakeItem("first", 9.0)], priority=2)
    world.submit(2, [FakeItem("shared", 1.0)], priority=0)
    world.at(50.0, lambda: world.submit(3, [FakeItem("shared", 1.0), FakeItem("mine", 5.0)]))
    world.at(91.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    assert world.scheduler.is_quiet and set(world.reports) == {1, 2, 3}
    for job_id in set(world.reports) - withdrawn(world):
        assert world.reports[job_id] is None


def test_who_waits_for_devices_gets_none_and_who_has_some_goes_on() -> None:
    world = World(gpus=1)
    spec = parse_device("cuda")
    for job_id in range(5):
        world.lease(job_id, spec, hold_s=10.0)
    world.at(15.0, lambda: world.scheduler.wind_down(world.now_s))
    world.at(16.0, lambda: world.lease(9, spec, hold_s=10.0))
    world.run()
    assert set(world.granted) == {0, 1} and withdrawn(world) == {2, 3, 4, 9}
    assert world.scheduler.is_quiet


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.3, 1.2, 1.5, 2.0, 3.5, 5.0])
def test_chains_end_too(moment_s: float) -> None:
    world = pipeline(seconds_per_cost=0.5, budget_tokens=2)
    for number in range(1, 8):
        world.row(number, [f"r{number}"])
    world.at(moment_s, lambda: world.scheduler.wind_down(world.now_s))
    world.run(until_s=1e4)
    assert world.scheduler.is_quiet, "nobody is held for a chain that does not come"
    submitted = {note["job_id"] for note in world.notes("job_submitted")}
    assert submitted == set(world.reports)
    for job_id in submitted - withdrawn(world):
        assert world.reports[job_id] is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), moment_s=st.floats(0, 30))
def test_every_job_is_reported_once_whatever_it_is_at(seed: int, moment_s: float) -> None:
    chance = random.Random(seed)
    world = World(
        gpus=chance.choice([1, 2]),
        budget_tokens=chance.choice([1, 3]),
        deadly={"k3"} if chance.random() < 0.3 else set(),
        bad={"k1"} if chance.random() < 0.3 else set(),
        read_s=chance.choice([0.001, 1.0]),
    )
    for job_id in range(10):
        items = [f"k{chance.randrange(8)}" for _ in range(chance.randrange(1, 4))]
        model = chance.choice("mn")
        at_s = chance.uniform(0, 20)
        world.at(at_s, lambda j=job_id, i=items, m=model: world.submit(j, i, model=m))  # type: ignore[misc]
    world.at(moment_s, lambda: world.scheduler.wind_down(world.now_s))
    world.run(until_s=1e5)
    assert world.scheduler.is_quiet and set(world.reports) == set(range(10))
    counts = world.scheduler.jobs
    assert counts.served + counts.failed + counts.withdrawn == 10


def test_what_is_said_to_be_computed_has_been() -> None:
    world = World(failing_loads={"m"})
    world.submit(1, ["a", "b", "c"])
    world.submit(2, ["d"], model="n")
    world.run()
    ledger = world.scheduler.ledger
    assert (ledger.unique, ledger.computed) == (4, 1)
    assert world.scheduler.dispatch.counts["model_loads"] == 1
