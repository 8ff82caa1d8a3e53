"""When time alone may change something: the run loop is asleep until then."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.testing.simulation import World


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
