"""Jobs that want their model loaded, and nothing computed."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.testing.simulation import World


def test_a_model_is_loaded_before_its_first_job() -> None:  # G1
    world = World(gpus=1, load_s=30.0)
    world.submit(1, [], loads_only=True)
    world.run()
    assert world.reports == {1: None} and world.report_times[1] >= 30.0
    assert not world.effects(fx.RunBatch) and not world.effects(fx.WriteJob)
    world.submit(2, ["a"])
    world.run()
    assert len(world.effects(fx.LoadModel)) == 1
    assert world.report_times[2] - world.report_times[1] < 5.0


def test_a_model_that_is_there_is_not_loaded_again() -> None:
    world = World(gpus=2, load_s=30.0)
    world.submit(1, ["a"])
    world.run()
    world.submit(2, [], loads_only=True)
    world.run()
    assert world.reports == {1: None, 2: None} and len(world.effects(fx.LoadModel)) == 1


def test_it_waits_for_a_device_like_a_job() -> None:
    world = World(gpus=1)
    world.submit(1, ["a", "b", "c"])
    world.at(0.5, lambda: world.submit(2, [], model="m2", loads_only=True))
    world.run()
    assert world.reports == {1: None, 2: None}
    assert [load.worker_id for load in world.effects(fx.LoadModel)] == ["tool.1", "tool.2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"failing_loads": {"m"}}, "no weights"),
        ({"info": {"devices": ["cuda"]}, "gpus": 0}, "cuda"),
        ({"info": {"persistent": False}}, "not kept loaded"),
    ],
)
def test_a_model_that_cannot_be_had_is_reported(options: dict[str, object], words: str) -> None:
    world = World(**{"gpus": 1, **options})
    world.submit(1, [], loads_only=True)
    world.run()
    assert words in str(world.reports[1])


def test_whoever_waits_may_go_and_the_model_ends_idle() -> None:
    world = World(gpus=1, load_s=10.0, config=DispatchConfig(idle=IdleTime(5.0)))
    world.submit(1, [], loads_only=True)
    world.at(2.0, lambda: world.scheduler.unwanted(1, "its client has ended", world.now_s))
    for time_s in range(3, 30):
        world.at(float(time_s), lambda: world.scheduler.tick(world.now_s))
    world.run()
    assert "its client has ended" in str(world.reports[1])
    assert [stop.why for stop in world.effects(fx.StopWorker)] == ["idle"]
