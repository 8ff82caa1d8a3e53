"""Short requests are merged where that pays, by what was measured, and the run says why (M1)."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.merging import choice, worth
from snakemake_executor_gpupool.scheduling.merging.worth import (
    NO_LIMIT_S,
    START_S,
    Case,
    item_limit_s,
    judge,
)
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.row_figures import (
    BRIEF_LOADS_S,
    IDLE_ROUND,
    MAX_ROUND_S,
    MIN_ROUND,
    ROUND_S,
    RowFigures,
)
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.tool_api.short_requests import TRIED
from tests.unit.test_chains import STAGES, Pipeline, all_succeeded, pipeline

NOTHING = (None, None, None)


# -- numbers in, a decision out --------------------------------------------------------------
THERE = (0.0, 0.0, 0.0)


def test_few_requests_are_merged_before_anything_is_known() -> None:  # M1 F2
    assert all(judge(Case(requests, NOTHING, None)).pays for requests in (1, 10, 100))


def test_what_is_loaded_is_used() -> None:  # M1 F2
    assert not judge(Case(1, THERE, None)).pays, "another load would only cost"
    assert not judge(Case(1, THERE, 5.0)).pays
    assert judge(Case(1, THERE, 0.0)).pays, "one dispatch instead of three"
    quick = Case(100, THERE, 0.0, compute_s=0.01, files_s=1e-3)
    assert not judge(quick).pays, "three processes do more than one"
    assert judge(Case(100, (5.0, 5.0, 5.0), 0.0)).pays
    assert not judge(Case(1, (0.0, 0.0, 2.0), 9.0)).pays, "two models would be loaded again"


def test_a_start_that_was_quick_says_nothing_of_loads() -> None:  # M1 F2
    """Most of what a tool imports it imports when it loads."""
    assert judge(Case(300, NOTHING, None, apart_files_s=1e-3, start_s=0.15)).pays


def test_slow_stages_and_waits_weigh_against_loads() -> None:  # M1 F2
    there = Case(100, (1.0, 1.0, 1.0), 0.0)
    assert judge(there).pays
    assert not judge(dataclasses.replace(there, compute_s=0.1)).pays
    assert not judge(dataclasses.replace(there, spent_s=3.0)).pays


def test_loads_that_other_work_hides_are_not_saved() -> None:  # M1 F2
    slow = Case(300, (2.0, 2.0, 2.0), 2.0, later_loads_s=3.4, compute_s=1e-5, files_s=2e-3)
    assert not judge(slow).pays, "while a model is loaded, its process reads and writes nothing"
    assert judge(dataclasses.replace(slow, later_loads_s=0.01)).pays, "one import for all"
    assert judge(dataclasses.replace(slow, requests=10)).pays
    assert 6.0 < judge(slow).apart_s < 7.0 < judge(slow).merged_s


@pytest.mark.parametrize(
    ("slots", "processors", "share"),
    [(1, 0, 1.0), (1, 2, 0.75), (2, 2, 0.0), (3, 2, 0.0), (2, 0, 0.5), (1, 1, 0.0)],
)
def test_what_several_processes_would_do_at_the_same_time(
    slots: int, processors: int, share: float
) -> None:  # F2
    case = Case(10, NOTHING, None, slots=slots, processors=processors)
    assert case.share == pytest.approx(share)


LOADS = st.lists(st.sampled_from([None, 0.0, 0.5, 5.0]), min_size=2, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), LOADS, st.sampled_from([None, 0.0, 0.5, 20.0]), st.floats(0.0, 1.0))
def test_more_to_compute_never_turns_it_in_favour_of_merging(
    requests: int, loads_s: list[float | None], merged_s: float | None, compute_s: float
) -> None:  # M1 F2
    case = Case(requests, loads_s, merged_s, compute_s=compute_s)
    more = judge(dataclasses.replace(case, compute_s=1.5 * compute_s + 1e-3))
    assert judge(case).pays or not more.pays


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 2000), LOADS, st.sampled_from([None, 0.0, 0.5, 20.0]), st.floats(0.0, 5.0))
def test_an_item_may_take_as_long_as_merging_pays(
    requests: int, loads_s: list[float | None], merged_s: float | None, spent_s: float
) -> None:  # M1 F2
    case = Case(requests, loads_s, merged_s, spent_s=spent_s)
    limit_s = item_limit_s(case)
    risked_s = START_S / ((requests - 1) * case.share)
    assert limit_s >= risked_s
    if limit_s > 1.01 * risked_s:
        assert judge(dataclasses.replace(case, compute_s=min(limit_s * 0.999, 1e3))).pays
    if limit_s < NO_LIMIT_S:
        assert not judge(dataclasses.replace(case, compute_s=limit_s * 1.01 + 1e-5)).pays
    assert item_limit_s(dataclasses.replace(case, compute_s=0.1)) == NO_LIMIT_S, "it is known"


def test_dispatches_of_files_are_brief_and_others_whole() -> None:  # P7
    figures = RowFigures()
    assert figures.round_size(3) is None
    figures.stage_done(1, 2, 0.001, 0.032, 64)
    assert figures.round_size(3) == math.ceil(ROUND_S / 3 / 5e-4)
    assert figures.is_full(range(27), 3, 64) and figures.is_full(range(9), 3, 9)
    assert not figures.is_full(range(26), 3, 64)
    figures = RowFigures()
    figures.stage_done(1, 2, 1.0, 0.064, 64)
    assert figures.round_size(3) == 1000, "some of it is taken for what each dispatch takes"
    figures.stage_done(1, 2, 0.9, 0.016, 16)
    assert figures.round_size(3) > 3400, "computing is not done more often for it"
    figures.stage_done(1, 2, 0.9, 0.016, 16)
    figures.stage_done(1, 2, 0.0, 0.016, 16)
    assert figures.round_size(3) > 3400, "one that was otherwise is no measure"


def test_dispatches_are_not_so_brief_that_they_cost_more_than_their_requests() -> None:  # P7
    """Six stages beside other work had dispatches of four requests, and as many frames as jobs."""
    figures = RowFigures()
    figures.stage_done(1, 2, 0.001, 0.128, 64)
    assert figures.round_size(6) == MIN_ROUND > math.ceil(ROUND_S / 6 / 2e-3)
    figures = RowFigures()
    figures.stage_done(1, 2, 0.001, 6.4, 64)
    assert figures.round_size(6) == 1, "while files take long, others read and publish"
    figures = RowFigures()
    figures.stage_done(1, 2, 0.001, 0.32, 64)
    assert figures.round_size(6) == math.ceil(MAX_ROUND_S / 6 / 5e-3) < MIN_ROUND


def test_an_idle_process_begins_with_few_requests_while_others_are_read() -> None:  # P7
    """A warm chain of 100 brief requests waited for 36 of them, a tenth of its time."""
    figures = RowFigures()
    figures.stage_done(1, 2, 0.001, 0.032, 64)
    assert figures.is_full(range(IDLE_ROUND), 3, 64, is_idle=True)
    assert not figures.is_full(range(IDLE_ROUND - 1), 3, 64, is_idle=True)
    assert not figures.is_full(range(IDLE_ROUND), 3, 64)
    figures = RowFigures()
    figures.stage_done(1, 2, 1.0, 0.064, 64)
    assert not figures.is_full(range(500), 3, 2000, is_idle=True), "each dispatch has its price"


def test_what_each_request_takes_to_compute_does_not_make_dispatches_large() -> None:  # P7
    """They were as large as the one before, and nothing was read or published beside them."""
    figures = RowFigures()
    figures.stage_done(1, 2, 0.2, 0.05, 100)
    sizes = []
    for _ in range(4):
        size = figures.round_size(3)
        assert size is not None
        sizes.append(size)
        figures.stage_done(1, 2, 0.002 * size, 0.0005 * size, size)
    assert sizes[0] == 400 and sizes[-1] == math.ceil(ROUND_S / 3 / 5e-4)


def test_those_that_are_merged_stay_so_unless_the_difference_is_clear() -> None:  # M1 F2
    """Estimates differ by some hundredths of a second, and then all models were loaded twice."""
    case = Case(800, (1.1, 1.1, 1.1), 0.0, compute_s=1e-3, files_s=6e-4, apart_files_s=7e-4)
    at_stake_s = judge(case).merged_s - judge(case).apart_s
    near = dataclasses.replace(case, spent_s=START_S / 2 - at_stake_s)
    assert not judge(near).pays
    assert judge(dataclasses.replace(near, is_going_on=True)).pays
    clear = dataclasses.replace(near, spent_s=near.spent_s + START_S, is_going_on=True)
    assert not judge(clear).pays


def test_a_row_s_process_is_not_taken_to_do_more_with_files_than_others() -> None:  # M1 F2
    usual = Case(1000, (1.0, 1.0, 1.0), 0.0, compute_s=1e-4, apart_files_s=1e-3)
    assert judge(dataclasses.replace(usual, files_s=5e-3)).pays


def test_it_says_why() -> None:
    assert judge(Case(1, NOTHING, None)).why == (
        "merged because 1 request would take about 0.30 s merged, loads included, and 0.91 s job "
        "by job"
    )
    there = judge(Case(900, (0.0, 0.0, 0.0), 0.0, compute_s=0.1)).why
    assert there.startswith("not merged because 900 requests would take about")


def test_what_was_measured_is_a_job_of_a_request() -> None:
    figures = RowFigures()
    assert (figures.compute_s, figures.files_s) == (None, None)
    for seconds in (0.1, 0.2, 9.0):
        figures.stage_done(0, 2, 99.0, 0.03, 10)
        assert figures.files_s in (None, pytest.approx(0.002))
        figures.stage_done(1, 2, seconds, 0.01, 10)
    assert figures.compute_s == pytest.approx(0.02)
    assert figures.files_s == pytest.approx(0.002), "the average of its stages"


# -- in a run ----------------------------------------------------------------------------------
@pytest.fixture
def slow_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the requests is too much."""
    monkeypatch.setattr(worth, "COMPUTE_S", 0.01)


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
    assert {effect.item_limit_s for effect in world.effects(fx.RunMerged)} == {None}
    many(world, 900, first=100)
    world.run()
    assert decided(world) == [True]


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
        for worker in list(world.scheduler.dispatch.lifecycle.workers.values()):
            if worker.model.ident != "other":
                world.kill(worker.worker_id)
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


def test_what_is_decided_for_one_request_goes_for_some_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judged(most: int) -> int:
        """Return how often it was decided for two waves, the second of what was measured."""
        cases: list[Case] = []

        def noted(case: Case) -> Any:
            cases.append(case)
            return judge(case)

        monkeypatch.setattr(choice, "judge", noted)
        monkeypatch.setattr(choice, "MAX_UNJUDGED", most)
        world = pipeline(gpus=0, cpus=1, seconds_per_cost=1e-4, budget_tokens=1000, read_s=1e-3)
        many(world, 100)
        world.at(100.0, lambda: many(world, 100, first=4000))
        world.run()
        assert world.counts["merged"] == 200 and decided(world) == [True]
        return len(cases)

    assert judged(choice.MAX_UNJUDGED) < judged(1) - 50, "though once with each stage, too"


# -- simulated -----------------------------------------------------------------------------------
Figs = dict[str, Figures]


def simulated(merges: bool, rows: int, figures: Figs | None = None, **options: Any) -> Pipeline:
    usual = {"gpus": 0, "cpus": 1, "start_s": 0.2, "read_s": 5e-4, "staging_s": 4e-4}
    world = pipeline(**usual | {"release_s": 1e-3, "budget_tokens": 1000} | options)
    world.merges = merges
    world.scheduler.dispatch.models._figures.update(figures or {})
    many(world, rows)
    world.run()
    assert all_succeeded(world)
    return world


def makespan_s(world: Pipeline) -> float:
    return max(world.report_times.values())


def test_no_dispatch_is_cut_short_while_more_is_being_read() -> None:  # P7
    """One request alone was sent beforehand, although its process had enough to do."""
    world = simulated(True, 60, load_s=0.5, seconds_per_cost=1e-5)
    world.at(20.0, functools.partial(many, world, 60, 1000))
    world.run()
    assert all_succeeded(world)
    sizes = [len(effect.requests) for effect in world.effects(fx.RunMerged)]
    first, second, *rest = sizes
    assert first == 60 and second == IDLE_ROUND, "all of the first wave, then a few to begin with"
    assert sum(rest) == 60 - IDLE_ROUND and len(rest) == 3, "then what is read meanwhile"
    assert min(rest) > 10


def test_where_loading_is_known_to_be_brief_a_few_requests_are_measured_first() -> None:  # F2
    """All at once would leave nobody anything to do until the first stage of all is done."""
    known = RowFigures(later_loads_s=BRIEF_LOADS_S / 2)
    assert known.round_size(3, load_s=BRIEF_LOADS_S / 2) == MIN_ROUND
    assert known.round_size(3, load_s=BRIEF_LOADS_S) is None is known.round_size(3)
    assert RowFigures().round_size(3, load_s=0.0) is None


@pytest.mark.parametrize("rows", [1, 10, 30, 60])
@pytest.mark.parametrize(("load_s", "compute_s"), [(0.001, 1e-5), (1.5, 1e-4)])
def test_merging_where_it_pays_takes_less_time(
    rows: int, load_s: float, compute_s: float
) -> None:  # F2
    times = {"load_s": load_s, "seconds_per_cost": compute_s}
    auto, off = (simulated(merges, rows, **times) for merges in (True, False))
    assert decided(auto) == [True] and makespan_s(auto) <= 0.85 * makespan_s(off)


def test_many_slow_requests_take_no_longer_than_without_merging() -> None:  # F2
    """Merged, they would take more than twice as long: some items are tried."""
    times = {"load_s": 0.001, "seconds_per_cost": 0.03, "budget_tokens": 4, "cpus": 3}
    auto, off = (simulated(merges, 100, **times) for merges in (True, False))
    assert decided(auto) == [True, False] and auto.counts["merged"] <= 3 * TRIED
    assert makespan_s(auto) <= 1.02 * makespan_s(off) + START_S


def random_case(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    read_s, load_s = 10 ** rng.uniform(-4, -3), rng.choice([0.001, 0.1, 0.5, 2.0])
    return {
        "rows": rng.choice([1, 3, 10, 30]),
        "cpus": rng.choice([1, 1, 2, 3]),
        "start_s": rng.uniform(0.1, 0.3),
        "load_s": load_s,
        "later_load_s": load_s * rng.choice([0.02, 1.0]),
        "seconds_per_cost": 10 ** rng.uniform(-5, -1.5),
        "read_s": read_s,
        "staging_s": 2 * read_s * rng.uniform(0.5, 1.0),
        "budget_tokens": rng.choice([8, 64, 1000]),
        "release_s": 10 ** rng.uniform(-3.3, -2),
    }


@pytest.mark.parametrize("seed", range(24))
def test_with_known_costs_it_is_never_slower_and_else_by_little(seed: int) -> None:  # F2
    case = random_case(seed)
    auto, off = (simulated(merges, **case) for merges in (True, False))
    assert makespan_s(auto) <= 1.02 * makespan_s(off) + 2 * START_S, "nothing is known"
    known: Figs = {}
    for world in (auto, off):  # a user who had both ways once
        models = world.scheduler.dispatch.models.values()
        known |= {model.profile_key: model.figures() for model in models if model.load_s}
    auto, off = (simulated(merges, figures=known, **case) for merges in (True, False))
    assert makespan_s(auto) <= 1.02 * makespan_s(off)
