"""Short requests through a row's models one at a time, while some are still to be loaded."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import FIRST_ROUND
from snakemake_executor_gpupool.scheduling.models.row_figures import RowFigures
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.frames import Frame
from tests.unit import test_chains
from tests.unit.test_chains import STAGES, Pipeline, all_succeeded, lived_to_the_end, pipeline

MANY = 30


def slow(rows: int = MANY, **options: Any) -> Pipeline:
    """Return a world with rows of jobs whose models take two seconds each to load."""
    usual = {"gpus": 0, "cpus": 1, "load_s": 2.0, "later_load_s": 2.0, "budget_tokens": 2}
    usual |= {"read_s": 1e-3, "write_s": 1e-3, "release_s": 1e-3, "seconds_per_cost": 1e-4}
    world = pipeline(**usual | options)
    for number in range(1, rows + 1):
        world.row(number, [f"r{number}"])
    return world


def spans(world: Pipeline) -> list[tuple[int, int]]:
    """Return of each dispatch the stage that it begins at, and how many it goes through."""
    firsts = [effect.requests[0] for effect in world.effects(fx.RunMerged)]
    return [(first.offset, len(first.stages)) for first in firsts]


def test_while_models_are_still_to_be_loaded_requests_go_through_one_at_a_time() -> None:  # M1 F2
    world = slow()
    world.run()
    assert all_succeeded(world)
    assert not world.effects(fx.RunBatch) and len(world.effects(fx.LoadModel)) == 1
    assert set(spans(world)) == {(0, 1), (1, 1), (2, 1)}
    assert len(world.computed) == len(set(world.computed)) == STAGES * MANY
    # Loads follow one another at once, and the first jobs are reported before the second one.
    loaded_s = [note["seconds"] for note in world.notes("stage_loaded")]
    assert loaded_s == [2.0, 2.0]
    sent = world.effects(fx.RunMerged)
    assert [each.requests[0].offset for each in sent if each.loads_next] == [0, 1]
    lasts = [max(n for n, e in enumerate(sent) if e.requests[0].offset == k) for k in (0, 1)]
    assert all(sent[number].loads_next for number in lasts)
    assert max(world.report_times[100 * n] for n in range(1, MANY + 1)) < 2.0 + 2.0
    assert max(world.report_times.values()) < 3 * 2.0 + 1.0


def test_what_is_computed_by_itself_is_written_as_any_job_is() -> None:  # M1
    world = slow()
    world.run()
    written = {effect.request.job_id for effect in world.effects(fx.WriteJob)}
    assert written == {job_id for row in world.rows.values() for job_id in row}
    assert not world.effects(fx.PublishJob) and not world.counts.total()
    assert not world.notes("stage_done")
    assert world.scheduler.ledger.guesses == 0


def test_few_requests_go_through_all_at_once() -> None:  # M1
    world = slow(rows=2 * FIRST_ROUND)
    world.run()
    assert all_succeeded(world) and {number for _, number in spans(world)} == {STAGES}


@pytest.mark.parametrize("later_s", [0.01, 0.2])
def test_where_loads_are_brief_all_go_at_once(later_s: float) -> None:  # M1
    """As an earlier run has measured, whatever the first one takes with its imports."""
    world = slow(rows=0, later_load_s=later_s)
    key = "m0+m1+m2/m0/cpux1:CPU"
    known = Figures(load_s=2.0, later_loads_s=2 * later_s)
    world.scheduler.dispatch.models._figures[key] = known
    for number in range(1, MANY + 1):
        world.row(number, [f"r{number}"])
    world.run()
    keys = [m.profile_key for m in world.scheduler.dispatch.models.values() if m.is_chain]
    assert keys == [key], "what the figures are known by"
    assert all_succeeded(world) and {number for _, number in spans(world)} == {STAGES}


def test_once_all_models_are_loaded_requests_go_through_all_at_once() -> None:  # M1
    world = slow()
    for number in range(101, 101 + MANY):
        world.at(60.0, functools.partial(world.row, number, [f"r{number}"]))
    world.run()
    assert all_succeeded(world)
    count = spans(world).index((0, STAGES))
    assert set(spans(world)[count:]) == {(0, STAGES)}


def test_what_was_imported_once_is_no_part_of_a_load() -> None:  # F2
    figures = RowFigures()
    assert figures.loads_s([1, 2], 2, 3.0) == 6.0, "they are like the first one"
    figures.first_loaded(2.5, None)
    assert figures.loads_s([1, 2], 2, 3.0) == 6.0, "nothing was said"
    figures.first_loaded(2.5, 2.4)
    assert figures.loads_s([1, 2], 2, 3.0) == pytest.approx(0.2)
    figures.stage_loaded(1, 4.0)
    assert figures.loads_s([2], 2, 3.0) == 4.0, "what was measured is a better guess"
    assert RowFigures(later_loads_s=3.0).loads_s([1], 2, 9.0) == 1.5, "or an earlier run's"


def test_items_that_others_have_already_are_not_computed_again() -> None:  # M5
    world = slow(rows=0)
    for number in range(1, MANY + 1):
        world.row(number, [f"r{number // 2}", "same"])
    world.run()
    assert all_succeeded(world)
    # Two dispatches that are in flight at the same time may both have one.
    again = len(world.computed) - len(set(world.computed))
    assert again <= 2 * STAGES * len(world.effects(fx.RunMerged)) / MANY * FIRST_ROUND


def test_one_stage_whose_model_cannot_be_loaded_is_not_tried_for_each_request() -> None:  # M5 W8
    world = slow(failing_loads={"m1"})
    world.run()
    failed = {job_id for job_id, error in world.reports.items() if error is not None}
    assert failed == {100 * number + 1 for number in range(1, MANY + 1)}
    assert all("no weights" in str(world.reports[job_id]) for job_id in failed)
    assert len([span for span in spans(world) if span[0] == 1]) <= 2


def test_results_of_a_request_that_is_not_whole_are_thrown_away() -> None:  # M5 W3
    world = slow(rows=0, shares=True, bad={f"bad{n}/{n % STAGES}" for n in range(1, MANY, 4)})
    for number in range(1, MANY + 1):
        world.row(number, [f"r{number}", f"bad{number}", f"s{number}"])
    world.run()
    failed = {100 * n + n % STAGES for n in range(1, MANY, 4)}
    assert {job_id for job_id, error in world.reports.items() if error is not None} == failed
    for job_id in world.reports.keys() - failed:
        own = [f"result of {item.key}" for item in world._jobs[job_id][1]]
        assert world.results[job_id] == own
    held = {path for path, _ in world.contents} - world.removed
    kept = {item.result.path for item in world.scheduler.ledger._work_items.values()}
    assert held <= kept, "no file is left that nobody knows"
    assert not world.scheduler.by_stage._places, "those whose first job failed have none"


def test_jobs_that_no_row_was_for_go_their_own_way() -> None:  # T4 G2
    """They may be of a run that merges nothing, or of another instance."""
    world = slow()
    world.at(2.5, lambda: world.submit(7, [FakeItem("alone", 1.0, 1, "g1")], model="m1"))
    world.run()
    assert len(world.reports) == STAGES * MANY + 1 and not any(world.reports.values())
    own = [item.name for effect in world.effects(fx.RunBatch) for item in effect.items]
    assert own == ["alone@0"]


def release_otherwise(world: Pipeline, job_id: int, otherwise: Callable[[], object]) -> None:
    """Have a job made ready in another way once the one before it is done."""
    release = world.release

    def chosen(each: int) -> None:
        otherwise() if each == job_id else release(each)

    world.release = chosen  # type: ignore[method-assign]


def test_jobs_after_one_that_waits_for_the_items_of_others_have_their_places() -> None:  # P5
    world = slow()
    late = functools.partial(Pipeline.release, world, 101)
    release_otherwise(world, 101, lambda: world.at(4.0, late))
    for number in range(MANY + 1, MANY + 5):
        world.at(1.0, functools.partial(world.row, number, ["r1"]))
    world.run()
    assert all_succeeded(world)
    assert not world.effects(fx.RunBatch) and len(world.effects(fx.LoadModel)) == 1


def test_a_job_of_another_instance_than_was_guessed_is_not_served_by_the_row() -> None:  # T4 M5
    world = slow()
    items = world._jobs[101][1]
    release_otherwise(
        world, 101, lambda: world.submit(101, items, model="m1", instance="own", follow=[102])
    )
    world.run()
    assert all_succeeded(world)
    rows = {
        each.request.job_id: each.row
        for effect in world.effects(fx.RunMerged)
        for each in effect.requests
    }
    assert rows[201] == rows[100] != rows.get(101)


def test_rows_of_several_instances_have_processes_of_their_own() -> None:  # T4
    world = pipeline(gpus=0, cpus=2)
    for first, instance in ((100, ""), (200, "own")):
        world.rows[first] = [first, first + 1, first + 2]
        for stage in range(STAGES):
            world.declare(first + stage, [FakeItem(f"{first}/{stage}")], model=f"m{stage}")
            request = world.requests[first + stage]
            world.requests[first + stage] = dataclasses.replace(request, instance=instance)
        follow = [first + 1, first + 2]
        _, items = world._jobs[first]
        world.submit(first, items, model="m0", instance=instance, follow=follow)
    world.run(until_s=30.0)
    sent = world.effects(fx.RunMerged)
    assert len(sent) == 2 and sent[0].worker_id != sent[1].worker_id


def test_jobs_whose_row_is_gone_are_served_by_their_own_models() -> None:  # M5 W4
    world = slow(release_s=5.0)
    (first,) = {100}
    world.run(until_s=3.0)
    assert world.reports[first] is None and 101 not in world.reports
    count = len(world.effects(fx.RunMerged))
    world.kill_one(lambda names: _chains(names)[0])
    world.run()
    assert all_succeeded(world)
    later = [each.requests[0] for each in world.effects(fx.RunMerged)][count:]
    assert all(len(first.row[1]) < STAGES for first in later), "nobody loads that row again"


def test_a_job_that_is_dropped_at_work_ends_at_once() -> None:  # M1 G2
    """Nobody but a file process writes its outputs, and none was told to."""
    world = slow(seconds_per_cost=0.5)
    world.at(2.3, lambda: world.take(ev.JobUnwanted(100, "its run has ended")))
    world.run()
    assert "its run has ended" in str(world.reports[100]) and world.report_times[100] == 2.3
    assert world.log[0][0] < 2.3 < world.finished_s["r1/0"], "it was at work"
    assert not [stop for stop in world.effects(fx.StopWorker) if stop.force]
    assert 100 not in world.results and 101 not in world.reports
    rest = {job_id: error for job_id, error in world.reports.items() if job_id != 100}
    assert len(rest) == STAGES * (MANY - 1) and not any(rest.values())


def test_a_stage_alone_is_no_measure_of_all() -> None:  # P7
    world = slow(rows=0)
    for number in range(1, MANY + 1):
        world.row(number, [f"r{number}", f"s{number}"])
    world.run()
    (row,) = [model for model in world.scheduler.dispatch.models.values() if model.is_chain]
    assert row.speed.s_per_cost is None and row.merged.files_s is None
    sizes = {note["batch"]: note["items"] for note in world.notes("batch_sent")}
    assert sum(sizes.values()) == STAGES * MANY * 2, "items, not requests"
    facts = [fact.fields for fact in world.effects(fx.Fact) if fact.kind == "batch"]
    assert facts and not any(fields["merged"] for fields in facts)


def test_earlier_stages_go_first() -> None:  # M1 F2
    """Else the others would wait until the next model is loaded."""
    world = slow(rows=0, seconds_per_cost=0.01)
    for number in range(1, MANY + 1):
        cost = 9.0 if number <= MANY // 4 else 1.0
        world.row(number, [FakeItem(f"r{number}", cost)])
    world.run()
    assert all_succeeded(world)
    offsets = [offset for offset, _ in spans(world)]
    assert offsets == sorted(offsets)


def test_two_dispatches_are_in_flight_whatever_stages_wait() -> None:  # P7
    world = slow()
    for number in range(101, 101 + MANY):  # while others wait for the second stage
        world.at(3.0, functools.partial(world.row, number, [f"r{number}"]))
    world.run()
    assert all_succeeded(world)
    assert any(row.has_short for row in world.scheduler.dispatch.models.rows())
    sent_s = [
        time_s
        for time_s, effect in world.log
        if isinstance(effect, fx.RunMerged) and effect.requests[0].offset == STAGES - 1
    ]
    assert len(sent_s) > len(set(sent_s))


def test_a_model_of_a_row_is_not_loaded_ahead_beside_it() -> None:  # F2
    world = slow(gpus=2, cpus=0)
    world.run(until_s=4.5)
    dispatch = world.scheduler.dispatch
    homes = [model for model in dispatch.models.values() if not model.is_chain]
    assert {model.ident for model in homes} >= {"m0", "m1"}
    assert all(map(dispatch.ahead._is_in_row, homes))
    world.submit(7, [FakeItem("x", 1.0, 1000)], model="other")
    world.run()
    (other,) = [model for model in dispatch.models.values() if model.ident == "other"]
    assert not dispatch.ahead._is_in_row(other)


def test_one_stage_has_no_limit_of_its_own() -> None:  # F2
    world = slow()
    world.run(until_s=3.0)
    (row,) = [model for model in world.scheduler.dispatch.models.values() if model.is_chain]
    row.merged.compute_s, limit_s = None, world.scheduler.dispatch.batching.item_limit_s
    one = world.effects(fx.RunMerged)[0].requests[0].stages
    assert len(one) == 1 and limit_s(row, one, 9) == math.inf
    assert limit_s(row, one * STAGES, 900) < math.inf
    world.run()


def test_the_first_of_each_stage_is_no_measure() -> None:  # F2
    figures = RowFigures()
    for stage in range(STAGES):
        figures.stage_alone(stage, 9.0, 1)
        assert figures.compute_s is None
    figures.stage_alone(0, 0.2, 10)
    assert figures.compute_s == pytest.approx(0.02)


def test_the_process_is_kept_while_the_next_jobs_are_being_read() -> None:  # F2
    """Somebody else who waits for its GPU would have it in the moment between two stages."""
    world = slow(gpus=1, cpus=0, read_s=0.01, release_s=0.05)
    world.at(1.0, lambda: world.submit(7, [FakeItem("x", 1.0, 1000)], model="other"))
    world.run()
    assert len(world.reports) == STAGES * MANY + 1 and not any(world.reports.values())
    assert len(world.effects(fx.LoadModel)) == 2


def test_requests_that_take_long_to_compute_go_to_models_of_their_own() -> None:  # M1 F2
    """Three processes compute at the same time what one would do one after the other."""
    ends_s = []
    for merges in (True, False):
        world = slow(rows=0, seconds_per_cost=1.0, budget_tokens=MANY // 2)
        world.merges = merges
        for number in range(1, 3 * MANY + 1):
            world.row(number, [f"r{number}"])
        world.run()
        assert all_succeeded(world)
        assert len(world.effects(fx.LoadModel)) == merges + STAGES
        ends_s.append(max(world.report_times.values()))
    assert ends_s[0] < ends_s[1] + 8 * STAGES, "some are tried"


def test_a_job_that_is_not_the_one_that_was_guessed_goes_its_own_way() -> None:  # M5
    world = slow()
    world.at(0.5, lambda: world._jobs.update({101: ("other", world._jobs[101][1])}))
    world.run()
    assert all_succeeded(world)
    at = {
        each.request.job_id: (each.row, each.offset)
        for effect in world.effects(fx.RunMerged)
        for each in effect.requests
    }
    assert at[201] == at[301] == (at[100][0], 1) and at.get(101) != at[201]


def test_a_run_that_has_left_leaves_no_places_behind() -> None:  # G2
    world = slow()
    world.run(until_s=3.0)
    places = world.scheduler.by_stage._places
    assert places
    for row in world.rows.values():
        for job_id in row:
            world.take(ev.RunLeft(str(job_id)))
    assert not places


@pytest.mark.parametrize("when_s", [2.5, 4.1, 5.0, 6.3])
def test_when_the_process_dies_nothing_is_lost(when_s: float) -> None:  # M5 W4
    world = slow()
    world.at(when_s, lambda: world.kill_one(lambda names: _chains(names)[0]))
    world.run()
    assert all_succeeded(world)


def _chains(names: list[str]) -> list[str]:
    return [name for name in names if "chain" in name] or names


class Lying(Pipeline):
    """A world whose first answer about a stage by itself is changed."""

    changes: ClassVar[dict[str, Any]] = {}
    stages = 1

    def sent(self, worker: str, frame: Frame) -> Iterable[Frame]:
        is_first = not self.complaints and frame.type == "stage"
        if is_first and len(self.effects(fx.RunMerged)[-1].requests[0].stages) == self.stages:
            frame = Frame({**frame.meta, **self.changes}, frame.blobs)
        return [frame]


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": 1},
        {"last": False},
        {"computed": None},
        {"computed": [1, 0, *range(2, 8)]},
        {"computed": [0, 0, *range(2, 8)]},
        {"computed": [*range(1, 9)]},
    ],
)
def test_an_answer_that_makes_no_sense_is_not_believed(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:  # W5
    monkeypatch.setattr(test_chains, "Pipeline", Lying)
    monkeypatch.setattr(Lying, "changes", changes)
    world = slow()
    world.run()
    assert len(world.complaints) == 1 and all_succeeded(world)


def test_nor_is_one_that_is_of_a_stage_by_itself_and_was_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # W5
    monkeypatch.setattr(test_chains, "Pipeline", Lying)
    monkeypatch.setattr(Lying, "stages", STAGES)
    monkeypatch.setattr(Lying, "changes", {"computed": [0], "chains": [], "last": True})
    world = slow(rows=1)
    world.run()
    assert len(world.complaints) == 1 and all_succeeded(world)


def lived(merges: bool, rows: list[list[str]], seed: int, **options: Any) -> dict[int, bool]:
    """Run rows whose processes are killed at random; return which jobs succeeded."""
    world = slow(rows=0, **options)
    world.merges = merges
    picks = random.Random(seed)
    for number, items in enumerate(rows, 1):
        world.at(picks.uniform(0.0, 3.0), functools.partial(world.row, number, items))
    for _ in range(picks.randrange(3)):
        world.at(picks.uniform(0.0, 9.0), lambda: world.kill_one(picks.choice))
    return lived_to_the_end(world)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=3),
        min_size=3,
        max_size=25,
    ),
    st.integers(0, 10**6),
    st.sampled_from(["", "a/0", "b/1", "c/2"]),
    st.sampled_from(["bad", "deadly", "huge"]),
    st.sampled_from([{"gpus": 0, "cpus": 1}, {"gpus": 0, "cpus": 2}, {"gpus": 1}, {"gpus": 2}]),
    st.sampled_from([0.6, 2.0]),
)
def test_by_stage_or_not_every_job_ends_the_same_way(
    rows: list[list[str]],
    seed: int,
    culprit: str,
    harm: str,
    places: dict[str, int],
    later_s: float,
) -> None:  # M5
    options = {**places, "later_load_s": later_s, **({harm: {culprit}} if culprit else {})}
    ends = [lived(merges, rows, seed, **options) for merges in (True, False)]
    assert ends[0] == ends[1]
