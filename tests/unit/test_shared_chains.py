"""Rows of models that several runs use: what one run no longer wants, and what it leaves."""

from __future__ import annotations

import dataclasses

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import StagedOutputs
from snakemake_executor_gpupool.scheduling.retirement import PATIENCE_S, tools_of
from snakemake_executor_gpupool.wire.requests import Request, ToolRef, anywhere
from tests.unit.test_chains import Pipeline, all_succeeded, pipeline


def drop(world: Pipeline, job_id: int, reason: str | None = "its run has ended") -> None:
    world.take(ev.JobUnwanted(job_id, reason))


def in_flight_at(world: Pipeline) -> float:
    return next(time_s for time_s, effect in world.log if isinstance(effect, fx.RunMerged))


def test_a_job_that_a_row_is_about_to_write_ends_before_that_is_reported() -> None:  # M1 G2
    """Its outputs are written by the row's worker: either in place, or never."""
    probe = pipeline(gpus=1)
    probe.row(1, ["a"])
    probe.run()
    begun_s = in_flight_at(probe)
    quick = pipeline(gpus=1)
    quick.row(1, ["a"])
    quick.at(begun_s + 0.01, lambda: drop(quick, 100))
    quick.run()
    assert quick.reports[100] is None, "it was written meanwhile"

    slow = pipeline(gpus=1, seconds_per_cost=30.0)
    slow.row(1, ["a"])
    slow.row(2, ["b"])
    slow.at(begun_s + 0.01, lambda: drop(slow, 100))
    slow.run()
    assert "its run has ended" in str(slow.reports[100])
    stops = [stop for stop in slow.effects(fx.StopWorker) if stop.force]
    assert len(stops) == 1, "the worker that may still write it"
    assert slow.report_times[100] >= begun_s + PATIENCE_S
    assert all(slow.reports[job_id] is None for job_id in slow.rows[200]), "the other goes on"
    assert not slow.scheduler.retirement._patience_until_s


def test_what_a_row_has_at_work_is_finished_when_nothing_new_is_to_begin() -> None:
    world, probe = (pipeline(gpus=1, seconds_per_cost=2.0, release_s=0.01) for _ in range(2))
    for each in (world, probe):
        each.row(1, ["a"])
    probe.run()
    world.at(probe.report_times[100] + 0.02, lambda: drop(world, 101, None))
    world.run()
    assert world.reports[101] is None


def test_a_run_that_leaves_takes_along_what_is_staged_for_it() -> None:
    world = pipeline(gpus=1, release_s=1e4)
    world.row(1, ["a"])
    world.at(100.0, lambda: world.take(ev.RunLeft("101")))
    seen: list[int] = []
    for time_s in (99.0, 101.0):
        world.at(time_s, lambda: seen.append(len(world.scheduler.merges._staged)))
    world.run()
    assert seen == [2, 1] and all_succeeded(world), "the others' is there"


def test_what_a_row_makes_for_a_run_that_has_left_is_removed_at_once() -> None:
    world, probe = (pipeline(gpus=1, seconds_per_cost=5.0, release_s=1e4) for _ in range(2))
    for each in (world, probe):
        each.row(1, ["a"])
    probe.run()
    world.at(in_flight_at(probe) + 6.0, lambda: world.take(ev.RunLeft("100")))
    seen: list[int] = []
    world.at(100.0, lambda: seen.append(len(world.scheduler.merges._staged)))
    world.run()
    assert seen == [0] and len(world.effects(fx.Unstage)) == 2


def test_a_row_is_forgotten_with_any_of_its_tools() -> None:
    world = pipeline(gpus=1)
    world.row(1, ["a"])
    world.run()
    assert all_succeeded(world)
    (row,) = [model for model in world.scheduler.dispatch.models.values() if model.is_chain]
    (tool, *_) = tools_of(row)
    world.take(ev.ToolRetired(tool))
    world._act()
    for _ in range(5):
        world.now_s += 2.0
        world.at(world.now_s, lambda: world.take(ev.TimePassed()))
        world.run()
    assert row not in world.scheduler.dispatch.models.values()


def test_a_guess_may_have_started_elsewhere_than_its_job_will_but_not_from_anything_else() -> None:
    tool = ToolRef("t", "/flow", "python", stamp="env~flow.code-0")
    guess = Request(0, "rule b", tool, b"", b"", "/flow", bare=b"b")
    made = StagedOutputs(guess, tool, (), (), (), (), 0, 0, 0.0)

    def is_for(**changes: str) -> bool:
        other = dataclasses.replace(tool, **changes)  # type: ignore[arg-type]
        return made.is_for(dataclasses.replace(guess, tool=other))

    assert is_for() and is_for(base_dir="/empty", stamp="env~empty.code-0")
    there = dataclasses.replace(tool, base_dir="/empty", stamp="env~empty.code-0")
    elsewhere = dataclasses.replace(made, guess=dataclasses.replace(guess, tool=there))
    assert not elsewhere.is_for(guess), "what is in the job's directory may have come since"
    assert not is_for(stamp="other~flow.code-0"), "other variables"
    assert not is_for(stamp="env~flow.edited-0")
    assert not is_for(spec="u") and not is_for(python="another")
    plain = dataclasses.replace(tool, stamp="")
    assert anywhere(plain) == plain != anywhere(tool)
