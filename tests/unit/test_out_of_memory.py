"""Device memory runs out: halve, then empty the device, then give the item up (W6)."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem


def test_an_item_that_fits_nowhere_fails_alone_and_says_what_to_do() -> None:
    world = World(gpus=1, huge={"x"}, budget_tokens=4)
    world.submit(1, ["a", "b", "x"])
    world.submit(2, ["c", "d"])
    world.run()
    assert world.reports[2] is None
    message = str(world.reports[1])
    assert message.startswith("rule r (job=1): item x@2: it needs more memory than cuda:0 has")
    assert "Shorten or split it" in message and "CUDA out of memory" in message
    assert sorted(world.computed) == ["a", "b", "c", "d"]
    assert world.scheduler.dispatch.counts["worker_crashes"] == 0
    assert world.scheduler.dispatch.counts["model_loads"] == 2  # one more, on an empty device


@pytest.mark.parametrize("gpus", [1, 2])
def test_packed_neighbours_make_room_for_a_large_item(gpus: int) -> None:  # D9
    world = World(gpus=gpus, packing=True, roomy={"x"})
    world.submit(1, ["n"], model="neighbour")
    world.submit(2, ["a"], model="another")
    world.submit(3, ["b", "x"])
    world.run()
    assert world.reports == {1: None, 2: None, 3: None}
    assert world.results[3] == ["result of b", "result of x"]


def test_neighbours_at_work_are_waited_for_not_killed() -> None:  # D7
    world = World(gpus=1, packing=True, roomy={"x"}, budget_tokens=1)
    world.submit(1, ["x"])
    world.submit(2, [FakeItem(f"n{n}", cost=3.0) for n in range(5)], model="neighbour")
    world.run()
    assert world.reports == {1: None, 2: None}
    assert len(world.computed) == len(set(world.computed)) == 6
    assert world.scheduler.dispatch.counts["worker_crashes"] == 0


def test_offloaded_workers_leave_the_device_for_a_large_item() -> None:  # D8
    world = World(
        gpus=1, roomy={"x"}, strategy=OffloadStrategy.CPU, info={"can_move": True}, load_s=0.2
    )
    world.submit(1, ["a"], model="first")
    world.run()
    world.submit(2, ["b", "x"])
    world.run()
    assert world.scheduler.dispatch.counts["offloads"] == 1
    assert world.reports == {1: None, 2: None}
    # What was ended for it comes back for later work.
    world.submit(3, ["c"], model="first")
    world.run()
    assert world.reports[3] is None


def test_weights_that_cannot_come_back_are_loaded_anew() -> None:  # D8
    """As when somebody else's memory is still on the device."""
    world = World(gpus=1, strategy=OffloadStrategy.CPU, info={"can_move": True}, load_s=0.2)
    for job_id, model in enumerate(("first", "second"), start=1):
        world.submit(job_id, [model], model=model)
        world.run()
    answer = world._answer
    error = {"kind": "tool", "type": "OutOfMemoryError", "message": "no room", "traceback": ""}

    def cannot_come_back(worker: str, kind: str, *blobs: object, **fields: object) -> None:
        if kind == "moved" and not fields["away"]:
            answer(worker, "move_failed", error=error)
        else:
            answer(worker, kind, *blobs, **fields)  # type: ignore[arg-type]

    world._answer = cannot_come_back  # type: ignore[assignment]
    world.submit(3, ["again"], model="first")
    world.run()
    assert world.notes("move_failed") and world.reports == {1: None, 2: None, 3: None}
    assert world.scheduler.dispatch.counts["model_loads"] == 3


def test_the_rest_of_the_queue_comes_first() -> None:  # P11
    world = World(gpus=1, roomy={"x"}, huge={"y"}, budget_tokens=2)
    world.submit(1, ["x", "y"])
    for job_id in range(2, 12):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert {job_id for job_id, error in world.reports.items() if error} == {1}
    last_s = max(world.report_times[job_id] for job_id in range(2, 12))
    assert world.report_times[1] > last_s
    assert world.scheduler.dispatch.counts["model_loads"] == 2


def test_a_one_shot_tool_has_its_second_try() -> None:  # T3
    world = World(gpus=1, huge={"x"}, info={"persistent": False})
    world.submit(1, ["x"])
    world.submit(2, ["a"])
    world.run()
    assert world.reports[2] is None
    assert "needs more memory" in str(world.reports[1])


def test_workers_that_die_on_a_large_item_do_not_keep_it_forever() -> None:  # W4
    world = World(gpus=1, huge={"x"})
    world.submit(1, ["x"])
    world.submit(2, ["a"])
    for time_s in (4.5, 8.0, 12.0, 16.0, 20.0):
        world.at(time_s, world.kill_first)
    world.run()
    assert world.reports[1] is not None and world.reports[2] is None
    assert world.scheduler.is_quiet


def test_the_budget_is_remembered_for_the_run_and_the_next() -> None:
    world = World(gpus=1, huge={"x"}, budget_tokens=16)
    world.submit(1, [*(f"i{n}" for n in range(15)), "x"])
    world.run()
    [model] = world.scheduler.dispatch.models.values()
    assert model.budget_tokens is not None and model.budget_tokens <= 8
    assert model.figures().budget_tokens == model.budget_tokens
