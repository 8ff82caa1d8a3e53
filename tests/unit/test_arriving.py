"""While jobs are handed over, models are not loaded that have to be loaded again for the rest (P6).

Each world runs twice: as it is told that jobs are handed over, and without that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.models.arriving import MAX_PAUSE_S
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

MODELS, JOBS_EACH, EVERY_S, LOAD_S = 8, 20, 0.05, 1.0
LOOK_S = 0.05
END_S = MODELS * JOBS_EACH * EVERY_S


def handed_over(
    is_told: bool = True,
    *,
    models: int = MODELS,
    seconds: float = 0.001,
    act: Callable[[World], object] = lambda world: None,
    is_known: bool = True,
    run: str = "",
    pause_s: float = 0.0,
    **job: Any,
) -> World:
    """Hand over jobs of some models in turn; a pause is made half way, if any is."""
    figures = Figures(load_s=LOAD_S, s_per_cost=1.0)
    named = {f"m{model}": figures for model in range(models)}
    world = World(gpus=2, load_s=LOAD_S, start_s=0.0, figures=named, budget_tokens=100)
    jobs = models * JOBS_EACH
    if is_known:
        forecast, wave_of = forecast_of({n: Node(f"k{n % models}", "tool") for n in range(jobs)})
        world.take(ev.JobsForeseen(forecast, run))
        world.wave_of = lambda job_id: wave_of.get(job_id, "")

    def submit(number: int) -> None:
        model = f"m{number % models}"
        world.submit(number, [FakeItem(f"i{number}", cost=seconds)], model=model, **job)

    if is_told:
        world.take(ev.HandingOver(goes_on=True))
    for number in range(jobs):
        at_s = number * EVERY_S + (pause_s if number >= jobs // 2 else 0.0)
        world.at(at_s, partial(submit, number))
    if is_told:
        world.at(END_S + pause_s, lambda: world.take(ev.HandingOver(goes_on=False)))
    for look in range(int((END_S + pause_s) / LOOK_S)):  # as the run loop does, whatever comes
        world.at(look * LOOK_S, lambda: world.take(ev.TimePassed()))
    act(world)
    world.run()
    assert set(world.reports.values()) == {None} and len(world.reports) >= jobs
    return world


def loads_s(world: World) -> list[float]:
    return [time_s for time_s, effect in world.log if isinstance(effect, fx.LoadModel)]


def ends_s(world: World) -> float:
    return max(world.report_times.values())


def test_each_model_is_loaded_once_and_nothing_ends_later() -> None:
    without, told = handed_over(is_told=False), handed_over()
    assert len(loads_s(without)) > 2 * MODELS
    assert len(loads_s(told)) == MODELS
    assert ends_s(told) <= ends_s(without) + 0.1 * LOAD_S


def test_those_on_devices_compute_meanwhile_and_the_others_are_loaded_at_once_afterwards() -> None:
    told = handed_over()
    assert [time_s < 1.0 for time_s in loads_s(told)] == [True] * 2 + [False] * (MODELS - 2)
    # Once the last job of the third model is there.
    assert loads_s(told)[2] == pytest.approx((MODELS * (JOBS_EACH - 1) + 2) * EVERY_S, abs=0.1)
    early = [job_id for job_id, time_s in told.report_times.items() if time_s < END_S]
    assert {job_id % MODELS for job_id in early} == {0, 1} and len(early) == 2 * JOBS_EACH


def test_work_that_takes_a_tenth_of_a_load_waits_for_nothing() -> None:
    """A job of each model is enough."""
    without, told = (handed_over(is_told, seconds=0.15) for is_told in (False, True))
    assert loads_s(told) == pytest.approx(loads_s(without), abs=0.01)


def test_work_that_adds_up_to_a_tenth_of_a_load_waits_no_longer() -> None:
    told = handed_over(seconds=0.0101)
    assert len(loads_s(handed_over(is_told=False, seconds=0.0101))) > len(loads_s(told)) > MODELS
    # The tenth job of a model that has to wait.
    assert loads_s(told)[2] == pytest.approx((9 * MODELS + 2) * EVERY_S, abs=0.35)


def test_a_model_whose_last_job_is_there_is_loaded() -> None:
    """Jobs of the third model come first, and no more of them later."""

    def submit(world: World) -> None:
        world.submit(1000, [FakeItem("early", cost=0.001)], model="m99")

    told = handed_over(act=lambda world: world.at(1.2, partial(submit, world)))
    assert told.report_times[1000] < 1.2 + 2 * LOAD_S


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 5},
        {"is_known": False},
        {"run": "one of several"},
        {"models": 2},
        {"seconds": 0.2},
    ],
    ids=str,
)
def test_nothing_is_held_back(options: dict[str, Any]) -> None:
    """Jobs have a priority; nothing is known; there are others; there are devices for all."""
    without, told = (handed_over(is_told, **options) for is_told in (False, True))
    assert loads_s(told) == pytest.approx(loads_s(without), abs=0.01)
    assert told.report_times == pytest.approx(without.report_times, abs=0.01)


def test_handing_over_that_pauses_holds_nothing_back() -> None:
    told = handed_over(pause_s=30.0)
    paused_s = END_S / 2
    meanwhile = [time_s for time_s in loads_s(told) if paused_s < time_s < paused_s + 29.0]
    assert len(meanwhile) >= MODELS - 2
    assert meanwhile[0] == pytest.approx(paused_s + MAX_PAUSE_S, abs=0.6)


def test_jobs_that_stop_coming_without_a_word_are_done_all_the_same() -> None:
    """Whoever hands them over ends without saying so; jobs that were foreseen never come."""
    world = World(gpus=1, load_s=LOAD_S, figures={"a": Figures(LOAD_S, 1.0)})
    world.figures["b"] = world.figures["a"]
    forecast, wave_of = forecast_of({n: Node("ab"[n % 2], "tool") for n in range(100)})
    world.take(ev.JobsForeseen(forecast))
    world.wave_of = lambda job_id: wave_of.get(job_id, "")
    world.take(ev.HandingOver(goes_on=True))
    for number in range(2):
        world.submit(number, [FakeItem(f"i{number}", cost=0.01)], model="ab"[number])
    world.run()
    assert set(world.reports) == {0, 1}
    assert ends_s(world) < 2 * (LOAD_S + MAX_PAUSE_S)
