"""Short requests are merged where that pays, by what was measured, and the run says why (M1)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.merging import worth
from snakemake_executor_gpupool.scheduling.merging.worth import (
    SHARE,
    STAGE_S,
    START_S,
    Case,
    RowFigures,
    excess_of,
    judge,
)
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_chains import STAGES, Pipeline, all_succeeded, pipeline

NOTHING = (None, None, None)


# -- numbers in, a decision out --------------------------------------------------------------
def test_few_requests_are_merged_before_anything_is_known_and_many_are_not() -> None:  # M1 F2
    assert judge(Case(1, NOTHING, None)).pays
    turn = int(2 * START_S / (2 * SHARE * STAGE_S))
    assert judge(Case(turn - 1, NOTHING, None)).pays
    assert not judge(Case(turn + 10, NOTHING, None)).pays


def test_what_is_loaded_is_used() -> None:  # M1 F2
    assert not judge(Case(1, (0.0, 0.0, 0.0), None)).pays, "another load would only cost"
    assert not judge(Case(1, (0.0, 0.0, 0.0), 5.0)).pays
    assert judge(Case(1, (0.0, 0.0, 0.0), 0.0)).pays, "one dispatch instead of three"
    assert not judge(Case(2, (0.0, 0.0, 0.0), 0.0)).pays, "three processes do more than one"
    assert judge(Case(100, (5.0, 5.0, 5.0), 0.0)).pays
    assert not judge(Case(1, (0.0, 0.0, 2.0), 9.0)).pays, "two models would be loaded again"


def test_slow_stages_and_waits_weigh_against_loads() -> None:  # M1 F2
    there = Case(100, (1.0, 1.0, 1.0), 0.0)
    assert judge(there).pays
    assert not judge(dataclasses.replace(there, stage_s=0.1)).pays
    assert not judge(dataclasses.replace(there, spent_s=3.0)).pays


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2000),
    st.lists(st.sampled_from([None, 0.0, 0.5, 5.0]), min_size=2, max_size=8),
    st.sampled_from([None, 0.0, 0.5, 20.0]),
    st.floats(0.0, 1.0),
)
def test_more_requests_never_turn_it_in_favour_of_merging(
    requests: int, loads_s: list[float | None], merged_s: float | None, stage_s: float
) -> None:  # M1 F2
    case = Case(requests, loads_s, merged_s, stage_s)
    more = judge(dataclasses.replace(case, requests=requests + 1))
    assert judge(case).pays or not more.pays
    assert more.costs_s >= judge(case).costs_s >= 0.0 and more.saved_s >= 0.0


def test_it_says_why() -> None:
    assert judge(Case(1, NOTHING, None)).why == (
        "merged because that saves 0.60 s of loading and costs 0.00 s for 1 request"
    )
    assert judge(Case(3000, NOTHING, None)).why.startswith("not merged because that saves 0.60 s")


def test_waits_add_up_by_what_a_stage_takes() -> None:
    figures = RowFigures()
    assert figures.stage_s is None
    figures.waited()
    assert figures.spent_s == excess_of(None) == SHARE * STAGE_S
    for seconds in (0.1, 0.2, 9.0):
        figures.stage_done(seconds, 10)
    assert figures.stage_s == pytest.approx(0.02)
    figures.waited()
    assert figures.spent_s == pytest.approx(SHARE * (STAGE_S + 0.02))


# -- in a run ----------------------------------------------------------------------------------
@pytest.fixture
def slow_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the requests is too much."""
    monkeypatch.setattr(worth, "STAGE_S", 0.02)


def many(world: Pipeline, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        world.row(number, [f"r{number}"])


def decided(world: Pipeline) -> list[bool]:
    return [note["merged"] for note in world.notes("merge_decided")]


def test_many_requests_go_job_by_job_to_the_last(slow_stages: None) -> None:  # M1 F2
    """The last ones, too, although few wait by then: the models are there, or will be."""
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=1e-4, budget_tokens=1000, read_s=1e-3)
    many(world, 150)
    world.run()
    assert all_succeeded(world)
    assert not world.effects(fx.RunMerged) and decided(world) == [False]
    assert len(world.effects(fx.LoadModel)) == STAGES


def test_a_few_that_come_after_are_merged_again_once_nothing_is_loaded(
    slow_stages: None,
) -> None:  # M1 F2
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=1e-4, budget_tokens=1000, read_s=1e-3)
    many(world, 150)
    world.run()
    for worker in list(world.scheduler.dispatch.lifecycle.workers):
        world.kill(worker)
    many(world, 3, first=3000)
    world.run()
    assert all_succeeded(world)
    assert decided(world) == [False, True] and world.counts["merged"] == 3


def test_after_waiting_for_one_process_for_long_the_others_are_loaded() -> None:  # M1 F2
    """Wave after wave, each too small to pay for loads by itself."""
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=0.05, budget_tokens=1000, release_s=1e-3)
    for wave in range(40):
        world.at(20.0 * wave, functools.partial(many, world, 8, 1 + 10 * wave))
    world.run()
    assert all_succeeded(world)
    assert decided(world) == [True, False]
    assert len(world.effects(fx.LoadModel)) == 1 + STAGES
    merged = world.counts["merged"]
    assert 8 <= merged < 320 and merged % 8 == 0, "a wave goes one way"
    for worker in list(world.scheduler.dispatch.lifecycle.workers):
        world.kill(worker)
    many(world, 1, first=5000)
    world.run()
    assert decided(world) == [True, False, True], "what was waited for counts once"


def test_requests_that_are_still_to_come_count(slow_stages: None) -> None:  # F1 F2
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=1e-4, budget_tokens=1000, read_s=1e-3)
    forecast, wave_of = forecast_of({n: Node("first", "tool") for n in range(200)})
    world.take(ev.JobsForeseen(forecast))
    world.rows[100] = [100, 101, 102]
    for stage, job_id in enumerate(world.rows[100]):
        world.declare(job_id, [FakeItem(f"r/{stage}", group=f"g{stage}")], model=f"m{stage}")
    _, items = world._jobs[100]
    world.submit(100, items, model="m0", follow=[101, 102], wave=wave_of[0])
    world.run(1.0)
    assert decided(world) == [False]


def test_what_a_stage_takes_on_a_gpu_is_no_measure() -> None:  # F2
    """The GPU's time is the same either way."""
    world = pipeline(gpus=1, seconds_per_cost=0.05, budget_tokens=1000)
    many(world, 8)
    world.run()
    (row,) = world.scheduler.merges._choice._rows.values()
    assert row.figures.stage_s is None


def test_lone_requests_are_merged_for_ever() -> None:  # M1 F2
    """None of them waits for another one."""
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=0.5, release_s=1e-3)
    for number in range(1, 41):
        world.at(20.0 * number, functools.partial(many, world, 1, number))
    world.run()
    assert all_succeeded(world) and decided(world) == [True] and world.counts["merged"] == 40


def test_models_that_were_never_loaded_apart_are_taken_to_be_like_the_first() -> None:  # M1 F2
    """A model that takes long to load is not loaded apart because START_S is short."""
    world = pipeline(gpus=0, cpus=1, seconds_per_cost=0.02, release_s=1e-3, load_s=30.0)
    world.budget_tokens = 1000
    for wave in range(10):
        world.at(60.0 * wave, functools.partial(many, world, 50, 1 + 50 * wave))
    world.run()
    assert all_succeeded(world) and decided(world) == [True]


def test_a_job_that_failed_before_its_followers_came_holds_nobody_to_its_way(
    slow_stages: None,
) -> None:  # M1 F2
    world = pipeline(gpus=0, cpus=1, bad={f"r{n}/0" for n in range(1, 151)}, read_s=1e-3)
    world.short_tokens, world.budget_tokens, world.seconds_per_cost = 128, 1000, 1e-4
    many(world, 150)
    world.run()
    assert decided(world) == [False] and None not in world.reports.values()
    for worker in list(world.scheduler.dispatch.lifecycle.workers):
        world.kill(worker)
    world.bad.clear()
    many(world, 1, first=4000)
    world.run()
    assert world.counts["merged"] == 1


@pytest.mark.parametrize("has_left", [True, False])
def test_a_run_that_has_left_holds_nobody_to_its_way(slow_stages: None, has_left: bool) -> None:
    world = pipeline(gpus=0, cpus=2, bad={f"r{n}/0" for n in range(1, 151)}, read_s=1e-3)
    world.short_tokens, world.budget_tokens, world.seconds_per_cost = 128, 1000, 1e-4
    world.submit(9, [FakeItem("long", 1e7, 1000)], model="other")
    many(world, 150)

    def later() -> None:
        assert decided(world) == [False] and 9 not in world.reports
        for row in world.rows.values() if has_left else ():
            for job_id in row:
                world.take(ev.RunLeft(str(job_id)))  # here each job is of a run of its own
        world.bad.clear()
        many(world, 1, first=4000)

    world.at(500.0, later)
    world.run()
    assert world.counts["merged"] == (1 if has_left else 0)


def test_a_stage_that_cannot_be_loaded_ends_the_rows_that_are_merged() -> None:  # M5 W8
    world = pipeline(gpus=0, cpus=1, failing_loads={"m1"})
    for number in range(1, 4):
        world.at(10.0 * number, functools.partial(world.row, number, [f"r{number}"]))
    world.run()
    assert {job_id: error is None for job_id, error in world.reports.items()} == {
        job_id: job_id % 100 == 0 for row in (1, 2, 3) for job_id in (100 * row, 100 * row + 1)
    }
    assert all("no weights" in str(world.reports[100 * n + 1]) for n in (1, 2, 3))
    assert len(world.effects(fx.RunMerged)) == 1, "once it is known, nobody tries again"


# -- simulated -----------------------------------------------------------------------------------
@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a process takes to be ready is a tenth, so that a tenth of the requests show it."""
    monkeypatch.setattr(worth, "START_S", worth.START_S / 10)


def makespan_s(merges: bool, rows: int, cpus: int = 1, **options: Any) -> tuple[float, list[bool]]:
    world = pipeline(gpus=0, cpus=cpus, read_s=5e-4, start_s=0.01, staging_s=4e-4, **options)
    world.merges, world.release_s = merges, 1e-3
    many(world, rows)
    world.run()
    assert all_succeeded(world)
    return max(world.report_times.values()), decided(world)


@pytest.mark.parametrize("rows", [1, 10, 30, 60, 100])
@pytest.mark.parametrize(("load_s", "compute_s"), [(0.001, 1e-5), (0.15, 1e-4), (0.5, 1e-4)])
def test_merging_where_it_pays_takes_less_time(  # F2
    tenth: None, rows: int, load_s: float, compute_s: float
) -> None:
    times = {"load_s": load_s, "seconds_per_cost": compute_s, "budget_tokens": 1000}
    (auto_s, way), (off_s, _) = (makespan_s(merges, rows, **times) for merges in (True, False))
    assert way == [True] and auto_s <= 0.85 * off_s


def test_many_slow_requests_take_no_longer_than_without_merging(tenth: None) -> None:  # F2
    """Merged, they would take more than twice as long."""
    times = {"load_s": 0.001, "seconds_per_cost": 0.01, "budget_tokens": 4, "cpus": 3}
    (auto_s, way), (off_s, _) = (makespan_s(merges, 150, **times) for merges in (True, False))
    assert way == [False] and auto_s <= 1.02 * off_s
