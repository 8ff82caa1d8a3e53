"""Whom look-ahead gives way to, and what it does not do: other runs, the end of a run, retries."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of, wave_of_client
from snakemake_executor_gpupool.scheduling.models.ahead import HOLD_OFF_S, NOBODYS_S
from snakemake_executor_gpupool.testing.graph_runs import GraphRun
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_outlook import (
    ahead_world,
    both,
    foreseen,
    graph_of,
    loaded_models,
    loads_of_b,
    trickle,
)


def test_a_worker_whose_next_jobs_are_a_moment_away_is_kept() -> None:
    """b's job is read first, when a's worker has nothing to do for an instant."""
    jobs = ("a", 1.0, []), ("b", 1.0, [0]), ("a", 1.0, [0]), ("a", 1.0, [0])
    lru, kept = both(graph_of(*jobs, devices=1))
    assert loaded_models(lru) == ["a", "b", "a"]
    assert loaded_models(kept) == ["a", "b"]


def test_an_idle_worker_is_kept_while_jobs_of_its_model_are_read() -> None:
    """c's job is read first, and could have the device of a, whose own job is read next."""
    jobs = ("a", 1.0, []), ("b", 3.0, []), ("b", 20.0, []), ("c", 1.0, [1]), ("a", 1.0, [1])
    lru, kept = both(graph_of(*jobs, devices=2))
    assert loaded_models(lru) == ["a", "b", "c", "a"]
    assert loaded_models(kept) == ["a", "b", "c"]


def test_another_run_gets_the_device_of_what_is_loaded_ahead_and_is_left_alone() -> None:
    moment_s = loads_of_b(ahead_world(lambda world: None, 1.0))[1] + 3.0
    world = ahead_world(lambda world: world.take(ev.RoomWanted("cuda:1")), moment_s)
    assert "another run waits for its device" in [e.why for e in world.effects(fx.StopWorker)]
    assert loads_of_b(world)[2] >= moment_s + HOLD_OFF_S


def test_no_other_run_is_asked_to_make_room_for_what_is_loaded_ahead() -> None:
    """The first two and c have work; the fourth, b again, has none yet."""
    world = ahead_world(lambda world: None, 1.0)
    assert [claim.is_ahead for claim in world.effects(fx.ClaimDevices)] == [False] * 3 + [True]


def test_work_that_comes_while_a_device_is_claimed_ahead_has_it_claimed_again() -> None:
    """Nobody was asked to make room; now somebody is, since there is work."""
    begins_s = loads_of_b(ahead_world(lambda world: None, 1.0))[1]

    def hold(world: World) -> None:
        world.claim_s = 1.0
        world.foreign["cuda:1"] = begins_s + 20.0
        world.at(begins_s + 0.5, lambda: world.submit(50, [FakeItem("x")], model="b"))

    world = ahead_world(hold, begins_s - 0.5)
    later = [
        c.is_ahead for t, c in world.log if isinstance(c, fx.ClaimDevices) and t > begins_s - 0.5
    ]
    assert later[:2] == [True, False]
    assert world.reports[50] is None


def test_nothing_is_loaded_ahead_once_a_run_winds_down() -> None:
    def loads(*, winds_down: bool) -> int:
        world = World(gpus=2)
        nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool")}
        nodes |= {3: Node("c", "tool", [2]), 4: Node("b", "tool", [1, 3])}
        wave_of = foreseen(world, nodes)

        def ended(job_id: int) -> None:
            if job_id == 2:
                item = FakeItem("z", 5.0)
                world.at(world.now_s, lambda: world.submit(3, [item], model="c", wave=wave_of[3]))

        world.on_report = ended
        world.submit(1, [FakeItem("x", 60.0)], model="a", wave=wave_of[1])
        world.submit(2, ["y"], model="b", wave=wave_of[2])
        if winds_down:
            world.at(7.0, lambda: world.take(ev.WindDownWanted()))
        world.run()
        return len(loads_of_b(world))

    assert loads(winds_down=False) == 2
    assert loads(winds_down=True) == 1


def test_devices_of_other_runs_are_not_asked_for_again_and_again() -> None:
    world = World(gpus=2, foreign={"cuda:1": 1e6})
    nodes: dict[Hashable, Node] = {1: Node("b", "tool"), 2: Node("a", "tool", [1])}
    nodes[3] = Node("b", "tool", [2])
    wave_of = foreseen(world, nodes)

    def ended(job_id: int) -> None:
        if job_id == 1:
            item = FakeItem("x", 60.0)
            world.at(world.now_s, lambda: world.submit(2, [item], model="a", wave=wave_of[2]))

    world.on_report = ended
    world.submit(1, ["y"], model="b", wave=wave_of[1])
    world.run(1000.0)
    assert world.reports == {1: None, 2: None}
    assert sum(world.scheduler.dispatch.lifecycle._names._numbers.values()) <= 4


def test_a_job_that_is_tried_again_is_not_one_of_those_to_come() -> None:
    world = World(gpus=1)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("a", "tool")}
    wave = foreseen(world, nodes)[1]
    world.submit(1, ["x"], model="a", wave=wave)
    world.run()
    world.submit(3, ["x"], model="a", wave=wave, attempt=2)
    assert world.scheduler.outlook._table.counts[wave].coming == 1


def test_waiting_in_vain_is_remembered() -> None:
    for holds_back, times in ((True, 1), (False, 0)):
        world = trickle(holds_back=holds_back)
        assert max(m.vain_windows for m in world.scheduler.dispatch.models.values()) == times


def test_what_none_of_several_runs_will_need_makes_room_once_it_has_idled() -> None:  # G2
    """A server never knows that nobody will come: until then c is as good as any."""
    world = World(gpus=2)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool")}
    nodes |= {3: Node("c", "tool", [2]), 4: Node("b", "tool", [1, 3])}
    forecast, wave_of = forecast_of(nodes)
    world.take(ev.JobsForeseen(forecast, "run1"))
    waves = {job_id: wave_of_client(wave, "run1") for job_id, wave in wave_of.items()}
    over_s = 0.0

    def ended(job_id: int) -> None:
        nonlocal over_s
        if job_id == 2:
            item = FakeItem("z", 5.0)
            world.at(world.now_s, lambda: world.submit(3, [item], model="c", wave=waves[3]))
        over_s = world.now_s if job_id == 3 else over_s

    world.on_report = ended
    world.submit(1, [FakeItem("x", 60.0)], model="a", wave=waves[1])
    world.submit(2, ["y"], model="b", wave=waves[2])
    world.run()
    _, again_s = loads_of_b(world)
    assert over_s + NOBODYS_S <= again_s < world.report_times[1]


def test_what_cannot_be_loaded_ahead_is_tried_once_more_when_there_is_work() -> None:
    """Its device may be full, or its weights be written, for a moment in which nobody needs it."""
    begins_s = loads_of_b(ahead_world(lambda world: None, 1.0))[1]

    def act(world: World) -> None:
        world.failing_loads.add("b")
        world.at(begins_s + 20.0, lambda: world.failing_loads.discard("b"))

    world = ahead_world(act, begins_s - 0.5)
    assert set(world.reports.values()) == {None}
    assert len(loads_of_b(world)) == 3, "not again and again"
    assert not world.notes("model_failed")


@pytest.mark.parametrize(("a_takes_s", "is_kept"), [(11.2, True), (13.0, False)])
def test_the_only_worker_of_a_model_is_kept_where_one_of_many_is_soon_free(
    a_takes_s: float, is_kept: bool
) -> None:
    """c waits when b's worker has nothing to do, and is needed again; those of a soon are not."""
    jobs = ("a", a_takes_s, []), ("a", a_takes_s, []), ("b", 1.0, []), ("b", 9.5, [])
    _, ahead = both(graph_of(*jobs, ("c", 1.0, [2]), ("b", 1.0, [4]), devices=3))
    assert loaded_models(ahead) == ["a", "a", "b", "c", *([] if is_kept else ["b"])]


def test_a_device_nobody_needs_goes_to_a_model_that_has_none_before_one_that_has() -> None:
    """a ends; one more worker of x would save less than a load, and z is loaded again soon."""
    jobs = [("z", 1.0, []), ("a", 30.0, []), *[("x", 8.0, [0])] * 6, ("z", 5.0, [2, 3, 4, 5])]
    _, ahead = both(graph_of(*jobs, devices=2), foretells=False)
    assert loaded_models(ahead) == ["z", "a", "x", "z"]


@pytest.mark.parametrize(("load_s", "loads"), [(1.0, 0), (10.0, 1)])
def test_no_device_is_left_for_a_model_that_loads_in_a_small_part_of_a_job(
    load_s: float, loads: int
) -> None:
    """z, whose device a has got, is used once more."""
    jobs = ("z", 5.0, []), ("a", 30.0, []), ("z", 5.0, [1])
    run = GraphRun(graph_of(*jobs, devices=1, load_s=load_s), looks_ahead=True)
    seen: list[int] = []
    outlook = run.world.scheduler.outlook
    run.world.at(30.0, lambda: seen.append(outlook.loads_within(1e3)))
    run.run()
    assert seen == [loads]
