"""Models that had no job yet are loaded ahead, and nothing else comes of it than time saved."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable

import pytest

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.files.ahead import CHANGED
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Node, Wave, forecast_of
from snakemake_executor_gpupool.scheduling.job_kinds import JobKinds
from snakemake_executor_gpupool.scheduling.models.provisional import GUESSED
from snakemake_executor_gpupool.testing.graph_runs import GraphRun, request_for
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.described import ModelInfo
from tests.unit.test_outlook import graph_of, loads_of

ONE_GPU = DeviceSpec("cuda", 1, ())
#: a computes for a minute; b, which nobody has used so far, reads what it made.
A_THEN_B = ("a", 60.0, []), ("b", 1.0, [0])


def both(*jobs: tuple[str, float, list[int]], devices: int) -> tuple[World, World]:
    """Run a graph without knowing what models its jobs will need, and knowing it."""
    worlds = []
    for foretells in (False, True):
        run = GraphRun(graph_of(*jobs, devices=devices), looks_ahead=True, foretells=foretells)
        run.run()
        worlds.append(run.world)
    return worlds[0], worlds[1]


def foretold(
    set_up: Callable[[World], object] = lambda world: None,
    *,
    gpus: int = 2,
    model: str = "b",
    told: str = "b",
    guessed_mib: int | None = None,
) -> World:
    """Run a job of a, then one of ``model``, of which ``told`` was said beforehand."""
    world = World(gpus=gpus, load_s=10.0)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool", [1])}
    forecast, wave_of = forecast_of(nodes)
    guess = dataclasses.replace(request_for(told), vram_mib=guessed_mib)
    forecast = dataclasses.replace(forecast, foretold={"b": guess})
    set_up(world)
    world.take(ev.JobsForeseen(forecast))

    def ended(job_id: int) -> None:
        if job_id == 1:
            item = [FakeItem("y")]
            world.at(world.now_s, lambda: world.submit(2, item, model=model, wave=wave_of[2]))

    world.on_report = ended
    world.submit(1, [FakeItem("x", 60.0)], model="a", wave=wave_of[1])
    world.run()
    return world


def ready_s(world: World) -> float:
    """When the second job became ready."""
    return world.report_times[1]


def workers_of(world: World, model: str) -> set[str]:
    return {
        effect.worker_id
        for effect in world.effects(fx.LoadModel)
        if effect.params == model.encode()
    }


def computing(world: World) -> set[str]:
    return {effect.worker_id for effect in world.effects(fx.RunBatch)}


def test_a_model_that_had_no_job_is_loaded_while_others_compute() -> None:  # F1
    late, early = both(*A_THEN_B, devices=2)
    assert loads_of(late, "b")[0] >= late.report_times[0]
    assert [s < early.report_times[0] - 10.0 for s in loads_of(early, "b")] == [True]
    assert max(early.report_times.values()) == pytest.approx(
        max(late.report_times.values()) - 10.0, abs=0.2
    )


def test_nothing_is_loaded_ahead_where_no_device_is_free() -> None:
    late, early = both(*A_THEN_B, devices=1)
    assert loads_of(late, "b") == pytest.approx(loads_of(early, "b"), abs=1e-4)


def test_what_is_ready_has_its_devices_before_anything_is_loaded_ahead() -> None:
    jobs = [("a", 5.0, []) for _ in range(32)]
    late, early = both(*jobs, ("b", 1.0, [0]), devices=4)
    assert loads_of(late, "a") == loads_of(early, "a")
    assert early.report_times[31] <= late.report_times[31]


def test_whoever_is_ready_gets_the_device_at_once() -> None:
    loaded_s = loads_of(foretold(), "b")[0]
    moment_s = loaded_s + 3.0
    world = foretold(lambda world: world.at(moment_s, lambda: world.lease(99, ONE_GPU, 5.0)))
    granted_s = next(t for t, effect in world.log if isinstance(effect, fx.GrantLease))
    assert granted_s == pytest.approx(moment_s + world.stop_s, abs=0.05)
    assert world.reports == {1: None, 2: None}


def test_a_job_is_computed_by_a_worker_of_its_own_description_alone() -> None:
    """What was said of it beforehand was wrong: the other model stays without work."""
    world = foretold(told="other")
    assert [s < ready_s(world) for s in loads_of(world, "other")] == [True]
    assert computing(world).isdisjoint(workers_of(world, "other"))
    assert world.reports == {1: None, 2: None}
    outlook, models = world.scheduler.outlook, world.scheduler.dispatch.models
    wrong = next(model for model in models.values() if model.ident == "other")
    assert wrong.is_foretold and wrong.key not in outlook._kinds.models("b")


@pytest.mark.parametrize("changed", ["neither", "files", "model"])
def test_a_process_that_has_read_what_a_job_wrote_later_does_nothing(changed: str) -> None:
    """Of both kinds: the one that was asked for the model, and the one that has loaded it."""
    usual = foretold()
    files, model = [effect.worker_id for effect in usual.effects(fx.CheckWorker)]
    which = {"files": {files}, "model": {model}}.get(changed, set())
    world = foretold(lambda world: world.changed_workers.update(which))
    reader = next(e.worker_id for e in world.effects(fx.ReadJob) if e.request.job_id == 2)
    assert (reader == files) is (changed != "files")
    assert (model in computing(world)) is (changed != "model")
    ends = [effect.worker_id for effect in world.effects(fx.StopWorker) if effect.why == CHANGED]
    assert set(ends) == which
    assert [s < ready_s(world) for s in loads_of(world, "b")] == (
        [True, False] if changed == "model" else [True]
    )
    assert world.reports == {1: None, 2: None}


def test_processes_are_started_as_such() -> None:
    world = foretold()
    starts = {effect.worker_id: effect.is_ahead for effect in world.effects(fx.StartWorker)}
    early = workers_of(world, "b")
    assert {worker for worker, is_ahead in starts.items() if is_ahead} == early != set()


def test_other_memory_than_was_guessed_is_another_place() -> None:
    """What it was granted is not what the job asks for."""
    world = foretold(guessed_mib=2000)
    (early,) = [worker for worker in workers_of(world, "b") if worker not in computing(world)]
    ends = [(effect.worker_id, effect.why) for effect in world.effects(fx.StopWorker)]
    assert (early, GUESSED) in ends
    assert [s < ready_s(world) for s in loads_of(world, "b")] == [True, False]
    assert world.reports == {1: None, 2: None}


def test_a_load_ahead_that_fails_fails_no_job() -> None:
    def mend(world: World) -> None:
        world.failing_loads.add("b")
        world.at(50.0, world.failing_loads.clear)

    world = foretold(mend)
    assert len(loads_of(world, "b")) == 2
    assert world.reports == {1: None, 2: None}
    assert [note["model"] for note in world.notes("ahead_failed")] == ["tool (b)"]
    assert not world.notes("model_failed")


@pytest.mark.parametrize("trouble", ["failing_loads", "fatal_loads"])
def test_what_cannot_be_loaded_ahead_is_said_by_its_job_as_ever(trouble: str) -> None:
    """Failures and deaths while a model is loaded ahead count for no job."""

    def break_it(world: World) -> None:
        getattr(world, trouble).add("b")

    world, plain = foretold(break_it), foretold(break_it, gpus=1)
    assert world.reports[2] is not None
    assert world.reports == plain.reports
    assert len(loads_of(world, "b")) == len(loads_of(plain, "b")) + 1


def test_what_nobody_can_name_beforehand_is_loaded_once_there_is_a_job() -> None:
    world = foretold(lambda world: world.unforeseen.add("b"))
    assert [s >= ready_s(world) for s in loads_of(world, "b")] == [True]
    assert len(world.effects(fx.DescribeModel)) == 1
    assert world.reports == {1: None, 2: None}


def other_tool(set_up: Callable[[World], object]) -> World:
    """Run a job of a, then one of b, which another tool has."""
    world = World(gpus=2, load_s=10.0)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "second", [1])}
    forecast, wave_of = forecast_of(nodes)
    second = dataclasses.replace(request_for("b").tool, spec="second")
    request = dataclasses.replace(request_for("b"), tool=second)
    world.take(ev.JobsForeseen(dataclasses.replace(forecast, foretold={"b": request})))

    def ended(job_id: int) -> None:
        if job_id == 1:
            submit = functools.partial(world.submit, model="b", tool="second", wave=wave_of[2])
            world.at(world.now_s, lambda: submit(2, ["y"]))

    world.on_report = ended
    world.submit(1, [FakeItem("x", 60.0)], model="a", wave=wave_of[1])
    set_up(world)
    world.run()
    return world


def file_processes(world: World, tool: str) -> list[str]:
    started = (effect for effect in world.effects(fx.StartWorker) if not effect.devices)
    return [effect.worker_id for effect in started if effect.tool.spec == tool]


def test_a_process_that_was_started_to_name_a_model_serves_its_jobs() -> None:
    world = other_tool(lambda world: None)
    (worker,) = file_processes(world, "second")
    assert worker in [effect.worker_id for effect in world.effects(fx.CheckWorker)]
    assert world.reports == {1: None, 2: None}
    assert [s < ready_s(world) for s in loads_of(world, "b")] == [True]


def test_unless_it_has_read_what_has_changed_since() -> None:
    world = other_tool(lambda world: world.changed_workers.add("second.files2"))
    first, later = file_processes(world, "second")
    reading = {effect.worker_id for effect in world.effects(fx.ReadJob)}
    assert first not in reading and later in reading
    assert world.reports == {1: None, 2: None}


def test_a_tool_whose_processes_die_before_it_has_a_job_is_not_given_up() -> None:
    def die(world: World) -> None:
        world.at(1.0, lambda: world.fatal_starts.add(""))
        world.at(50.0, world.fatal_starts.clear)

    world = other_tool(die)
    assert world.reports == {1: None, 2: None}


def test_what_the_first_job_says_of_its_model_counts() -> None:
    world = foretold(lambda world: None)
    model = next(m for m in world.scheduler.dispatch.models.values() if m.ident == "b")
    assert not model.is_foretold
    guess = dataclasses.replace(request_for("b"), vram_mib=1, priority=3)
    tool = world.scheduler.files.tool(guess.tool)
    table = world.scheduler.dispatch.models
    described = ModelInfo("new", "new", "g", 0)
    early = table.of_request(guess, tool, described, is_foretold=True)
    assert (early.vram_mib, early.priority, early.is_foretold) == (1, 3, True)
    first = table.of_request(dataclasses.replace(guess, vram_mib=2, priority=0), tool, described)
    assert first is early
    assert (first.vram_mib, first.priority, first.is_foretold) == (2, 0, False)


def test_a_guess_is_the_model_of_its_kind_until_a_job_has_come() -> None:
    kinds = JobKinds()
    kinds.foretell("kind", "guess")
    assert list(kinds.models("kind")) == ["guess"]
    assert kinds.add("kind", "real")
    assert list(kinds.models("kind")) == ["real"]
    assert not kinds.of("guess")
    kinds.foretell("kind", "late")
    assert list(kinds.models("kind")) == ["real"]


def test_a_guess_that_was_right_is_nothing_new() -> None:
    kinds = JobKinds()
    kinds.foretell("kind", "model")
    assert not kinds.add("kind", "model")
    assert kinds.add("kind", "second"), "jobs of one kind may have several"
    assert list(kinds.models("kind")) == ["model", "second"]


def test_forecasts_of_several_keep_what_they_foretell() -> None:
    one = Forecast((Wave("k@0", "k", "tool", 1),), foretold={"k": request_for("m")})
    merged = Forecast.merged({"run1": one})
    assert merged.foretold == one.foretold
