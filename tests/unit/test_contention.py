"""More models than devices: each is loaded about once, whoever waits gets a turn (D3, D4, P4)."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import INFO, FakeItem

STRATEGIES = pytest.mark.parametrize("strategy", OffloadStrategy)


def crowd(world: World, models: int, jobs: int, items: int, cost: float) -> None:
    """Submit jobs of many models, in turns, as a workflow does."""
    for number in range(jobs):
        for model in range(models):
            named = [FakeItem(f"{model}-{number}-{item}", cost) for item in range(items)]
            world.submit(number * models + model, named, model=f"m{model}")


def world_of(strategy: OffloadStrategy, gpus: int, load_s: float) -> World:
    return World(
        gpus=gpus, cpus=0, load_s=load_s, strategy=strategy, info={**INFO, "can_move": True}
    )


@STRATEGIES
@pytest.mark.parametrize("load_s", [1.0, 7.0, 60.0])
def test_each_model_is_loaded_once_while_it_has_little_work(
    strategy: OffloadStrategy, load_s: float
) -> None:
    world = world_of(strategy, gpus=4, load_s=load_s)
    crowd(world, models=8, jobs=15, items=2, cost=0.15)
    end_s = world.run()
    assert not any(world.reports.values())
    assert len(world.reports) == 8 * 15
    assert world.scheduler.dispatch.counts["model_loads"] == 8
    assert end_s < 1.1 * (2 * load_s + 8 * 30 * 0.15 / 4) + 5


@STRATEGIES
@pytest.mark.parametrize("load_s", [5.0, 60.0])
def test_models_with_much_work_take_turns_that_are_worth_their_loads(
    strategy: OffloadStrategy, load_s: float
) -> None:
    world = world_of(strategy, gpus=2, load_s=load_s)
    crowd(world, models=5, jobs=10, items=20, cost=1.0)
    end_s = world.run()
    assert not any(world.reports.values())
    work_s = 5 * 200 / 2
    # At least half of each turn is work.
    assert end_s < 2 * work_s + 5 * load_s
    first_s = [
        min(world.finished_s[key] for key in world.finished_s if key.startswith(f"{model}-"))
        for model in range(5)
    ]
    assert max(first_s) < 0.75 * end_s, "nobody waits for the end"
