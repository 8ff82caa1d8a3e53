"""When time alone may change something: the run loop is asleep until then."""

from __future__ import annotations

from functools import partial

import pytest

from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem


@pytest.mark.parametrize("window_s", [0.0, 0.2])
def test_the_loop_rests_while_a_model_loads(window_s: float) -> None:
    """An open window, closed or not, once had it look again at once for as long as that took."""
    world = World(gpus=1, load_s=60.0, config=DispatchConfig(batch_window_s=window_s))
    ticks: list[float] = []
    world.on_decided = lambda event, now_s, effects: (
        ticks.append(now_s) if isinstance(event, ev.TimePassed) else None
    )
    world.submit(1, ["a"])
    world.submit(2, ["b"])
    world.run(until_s=100.0)
    assert world.reports == {1: None, 2: None}
    assert len(ticks) < 80


def ticks_of(world: World, until_s: float) -> list[float]:
    """Run a world; return when it was woken although nothing had happened."""
    ticks: list[float] = []
    world.on_decided = lambda event, now_s, effects: (
        ticks.append(now_s) if isinstance(event, ev.TimePassed) else None
    )
    world.run(until_s=until_s)
    return ticks


def test_a_worker_on_the_cpu_that_gets_work_in_a_moment_is_looked_at_no_more_often() -> None:
    """No other model takes its place, and so it need not be kept."""
    world = World(gpus=0, cpus=1, load_s=8.0, seconds_per_cost=0.01)
    nodes = {number: Node("k", "tool") for number in range(40)} | {40: Node("l", "tool")}
    forecast, wave_of = forecast_of(nodes)
    world.take(ev.JobsForeseen(forecast))
    world.wave_of = lambda job_id: wave_of[job_id]
    world.submit(40, [FakeItem("long", cost=2500.0)], model="l")
    for number in range(40):
        world.at(10.0 + 0.5 * number, partial(world.submit, number, [f"i{number}"]))
    ticks = ticks_of(world, 35.0)
    assert len(world.reports) == 41 and not any(world.reports.values())
    assert len(ticks) < 80


def test_how_many_workers_pay_is_not_asked_again_while_inputs_are_read() -> None:  # P6
    config = DispatchConfig(batch_window_s=10.0)
    world = World(gpus=1, load_s=0.1, read_s=0.15, seconds_per_cost=0.001, config=config)
    asked: list[float] = []
    adjust = world.scheduler.dispatch.scaling.adjust

    def counted(model: Model, now_s: float) -> None:
        asked.append(now_s)
        adjust(model, now_s)

    world.scheduler.dispatch.scaling.adjust = counted  # type: ignore[method-assign]
    world.submit(0, ["first"])
    for number in range(1, 21):
        world.at(1.0, partial(world.submit, number, [f"i{number}"]))
    world.run(until_s=1.0)
    before = len(asked)
    ticks = ticks_of(world, 3.5)  # all are read one after the other, and none is sent
    assert len(ticks) > 40
    assert len(asked) - before < 35
    world.run(until_s=60.0)
    assert len(world.reports) == 21 and not any(world.reports.values())
