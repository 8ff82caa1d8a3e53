"""Granted devices are taken against other processes: an effect, and its answer, however late."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.models.model_worker import Stage
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.described import WorkerError

CUDA = parse_device("cuda")


def started(world: World) -> list[str]:
    """The models' workers that were started, in order."""
    return [effect.worker_id for effect in world.effects(fx.StartWorker) if effect.devices]


def check_nobody_is_on_what_was_not_claimed(world: World) -> None:
    """Every use of a card follows the answer that it is ours."""
    for effect in world.effects(fx.StartWorker):
        if any(device.kind != "cpu" for device in effect.devices):
            assert (effect.worker_id, effect.devices) in world.claimed
    for effect in world.effects(fx.GrantLease):
        assert (f"job{effect.job_id}", effect.devices) in world.claimed


def test_a_device_that_another_process_holds_is_waited_for() -> None:  # D13
    world = World(gpus=1, cpus=0, foreign={"cuda:0": 5.0})
    world.submit(1, ["a"])
    world.lease(2, CUDA, hold_s=1.0)
    world.run(4.9)
    assert started(world) == [] and world.granted == {}
    (note,) = world.notes("device_refused")
    assert note == {"device": "cuda:0", "why": "cuda:0 is held"}
    world.run()
    assert world.reports == {1: None}
    assert list(world.granted) == [2]
    assert started(world) == ["tool.1"]
    check_nobody_is_on_what_was_not_claimed(world)


def test_who_is_refused_one_device_gets_another() -> None:  # D13
    world = World(gpus=2, cpus=0, foreign={"cuda:0": 1e6})
    world.submit(1, ["a"])
    world.run(100.0)
    assert world.reports == {1: None}
    check_nobody_is_on_what_was_not_claimed(world)


def test_what_turns_out_to_be_broken_is_never_granted_again() -> None:  # D14
    world = World(gpus=2, cpus=0, broken_cards={"cuda:0"})
    world.submit(1, ["a"])
    world.run()
    world.submit(2, ["b"])
    world.run()
    assert world.reports == {1: None, 2: None}
    assert world.allocator.snapshot().lost == ("cuda:0",)
    assert len(world.notes("device_refused")) == 1


def test_without_any_device_left_every_waiting_worker_of_a_model_is_refused() -> None:  # D14
    # The second one is in line for the same card when it breaks under the first one's claim.
    world = World(gpus=1, cpus=0, broken_cards={"cuda:0"}, claim_s=1.0)
    world.submit(1, ["a"], model="m1")
    world.submit(2, ["b"], model="m2")
    world.lease(3, CUDA, hold_s=1.0)
    world.run()
    assert set(world.reports) == {1, 2, 3}
    assert all("managed here" in (error or "") for error in world.reports.values())
    assert started(world) == [] and world.granted == {}


def test_a_lease_that_is_no_longer_wanted_is_not_granted_late() -> None:  # D10
    world = World(gpus=1, cpus=0, claim_s=1.0)
    world.lease(1, CUDA, hold_s=1.0)
    world.at(0.5, lambda: world.scheduler.lease_done(1, 0.5))
    world.run(0.6)
    world.lease(2, CUDA, hold_s=1.0)
    world.run()
    assert list(world.granted) == [2]
    assert world.allocator.snapshot().holders == {}


@pytest.mark.parametrize("foreign_s", [0.0, 1.5])
def test_a_claim_that_is_answered_after_winding_down_starts_nothing(foreign_s: float) -> None:
    # S4
    world = World(gpus=1, cpus=0, claim_s=1.0, foreign={"cuda:0": foreign_s})
    world.lease(1, CUDA, hold_s=1.0)
    world.at(0.5, lambda: world.scheduler.wind_down(0.5))
    world.run()
    assert world.granted == {}
    assert "not started" in (world.reports[1] or "")
    assert world.allocator.snapshot().holders == {}


def test_a_model_that_is_given_up_frees_what_it_was_about_to_have() -> None:  # W4
    world = World(gpus=3, cpus=0, load_s=0.5, failing_loads={"bad"})
    world.submit(1, [f"a{n}" for n in range(9)], model="bad")
    world.run(0.3)  # two of them are loading
    world.claim_s = 5.0
    world.submit(2, [f"b{n}" for n in range(20)], model="bad")
    world.run(0.35)
    assert len(world.allocator.snapshot().holders) == 3, "a third one's device is being claimed"
    world.run(4.0)
    assert "no weights" in (world.reports[1] or "") and "no weights" in (world.reports[2] or "")
    assert world.allocator.snapshot().holders == {}
    world.claim_s = 0.0
    world.submit(3, ["c"], model="good")
    world.run()
    assert world.reports[3] is None
    assert len(started(world)) == 3, "two of the model that cannot be loaded, one of the other"


def late(world: World, act: str, job_id: int) -> Callable[[], None]:
    """Something that happens meanwhile."""
    sched = world.scheduler
    return {
        "kill": lambda: world.kill_one(lambda alive: alive[job_id % len(alive)]),
        "end lease": lambda: sched.lease_done(job_id, world.now_s),
        "make room": lambda: sched.make_room(f"cuda:{job_id % 2}", world.now_s),
        "given back": lambda: sched.given_back(f"cuda:{job_id % 2}", world.now_s),
    }[act]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 3.0),
    st.lists(st.tuples(st.sampled_from(["cuda:0", "cuda:1"]), st.floats(0.0, 9.0)), max_size=2),
    st.lists(
        st.tuples(
            st.floats(0.0, 20.0),
            st.sampled_from(["kill", "end lease", "make room", "given back"]),
            st.integers(0, 9),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_whatever_happens_while_claims_are_open_every_job_ends(
    claim_s: float,
    foreign: list[tuple[str, float]],
    meanwhile: list[tuple[float, str, int]],
    can_move: bool,
) -> None:  # D13 W4
    world = World(gpus=2, cpus=0, claim_s=claim_s, foreign=dict(foreign), load_s=0.5)
    world.info["can_move"] = can_move
    for number in range(6):
        items = [FakeItem(f"{number}-{item}", 0.3) for item in range(4)]
        world.at(number * 0.7, lambda n=number, i=items: world.submit(n, i, model=f"m{n % 3}"))  # type: ignore[misc]
    for number in (7, 8):
        world.at(number * 0.3, lambda n=number: world.lease(n, CUDA, hold_s=1.0))  # type: ignore[misc]
    for time_s, act, job_id in meanwhile:
        world.at(time_s, late(world, act, job_id))
    world.run(400.0)
    assert all(world.reports.get(number, "none") is None for number in range(6))
    check_nobody_is_on_what_was_not_claimed(world)


def away(world: World) -> str:
    """Have model m1's only worker put its weights into host memory; return the worker."""
    world.submit(1, ["a"], model="m1")
    world.run()
    world.submit(2, ["b"], model="m2")
    world.run()
    (worker,) = [
        w for w in world.scheduler.dispatch.lifecycle.workers.values() if w.stage is Stage.AWAY
    ]
    return worker.worker_id


@pytest.mark.parametrize("claim_s", [0.0, 1.0])
def test_a_worker_that_ends_while_it_returns_is_not_moved(claim_s: float) -> None:  # D8
    world = World(gpus=1, cpus=0, strategy=OffloadStrategy.CPU, info={"can_move": True})
    worker = away(world)
    model = world.scheduler.dispatch.worker(worker).model
    world.claim_s = claim_s
    if not claim_s:  # it waits in line instead
        world.lease(9, CUDA, hold_s=0.5)
        world.run(world.now_s + 0.2)
    world.submit(3, ["c"], model="m1")
    world.run(world.now_s + 0.2)
    assert world.scheduler.dispatch.worker(worker).stage in (Stage.ASKING, Stage.CLAIMING)
    world.stop_s = 5.0
    before = len(world.log)
    error = WorkerError("no more")
    world.scheduler.dispatch.failures.give_up_model(model, error, world.now_s)
    world._act()
    world.run()
    assert "no more" in (world.reports[3] or "")
    later = [effect for _, effect in world.log[before:]]
    names = [e.worker_id for e in later if isinstance(e, (fx.MoveModel, fx.StopWorker))]
    names += [e.holder_id for e in later if isinstance(e, fx.ClaimDevices)]
    assert names == [worker], "it is told to end, once, and nothing more is done for it"
    assert not world.scheduler.dispatch.owns(worker)
