"""A machine that is told to end: its micro-batch is finished, all else goes to others."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.testing.simulation import World


def two_nodes(**options: Any) -> World:
    """Two nodes with a card each; an item takes ten seconds."""
    defaults = {"gpus": 1, "hosts": ("n1", "n2"), "budget_tokens": 1, "seconds_per_cost": 10.0}
    return World(**{**defaults, **options})


def on(world: World, host: str, *kinds: type) -> list[tuple[float, Any]]:
    """What was sent to processes of a node, and when."""
    return [
        (time_s, effect)
        for time_s, effect in world.log
        if isinstance(effect, kinds) and world.node_of[effect.worker_id] == host
    ]


def keys_of(effect: fx.RunBatch) -> list[str]:
    """The items of a micro-batch."""
    return [item.key[-1] for item in effect.items]  # type: ignore[index]


def test_the_current_batch_is_finished_and_the_next_one_given_back() -> None:  # W4
    world = two_nodes()
    for job_id in range(40):
        world.submit(job_id, [f"item {job_id}"])
    world.at(15.0, lambda: world.tell_to_end("n1"))
    world.run()
    assert set(world.reports.values()) == {None} and len(world.reports) == 40
    sent = on(world, "n1", fx.RunBatch)
    assert sent and sent[-1][0] < 15.0, "nothing is begun there any more"
    done_s = min(s for s in (world.finished_s[keys_of(e)[0]] for _, e in sent) if s >= 15.0)
    stops = [(s, e) for s, e in on(world, "n1", fx.StopWorker) if ".files" not in e.worker_id]
    assert [(s, e.force) for s, e in stops] == [(done_s, True)], "not what was sent ahead"
    assert sorted(world.computed) == sorted(f"item {n}" for n in range(40)), (
        "none is computed twice"
    )
    assert not world.notes("worker_died")
    assert world.scheduler.dispatch.lifecycle.counts["model_loads"] == 2


def test_nothing_is_left_running_there() -> None:
    world = two_nodes()
    for job_id in range(6):
        world.submit(job_id, [f"item {job_id}"])
    world.at(15.0, lambda: world.tell_to_end("n1"))
    world.run(until_s=26.0)
    assert not [w for w in world._alive if world.node_of[w] == "n1"], "26 s: all have left"
    world.run()
    assert set(world.reports.values()) == {None}


def test_a_model_that_is_being_loaded_there_is_not_waited_for() -> None:
    world = two_nodes(load_s=100.0)
    for job_id in range(4):
        world.submit(job_id, [f"item {job_id}"])
    world.at(15.0, lambda: world.tell_to_end("n1"))
    world.run(until_s=20.0)
    assert not [w for w in world._alive if world.node_of[w] == "n1"]
    world.run()
    assert set(world.reports.values()) == {None}


def test_an_error_from_there_is_not_believed() -> None:
    """A child of the tool may have got the signal: the item is tried elsewhere, and fails there."""
    world = two_nodes()
    for job_id in range(4):
        world.submit(job_id, [f"item {job_id}"])
    world.run(until_s=15.0)
    at_it = [key for _, e in on(world, "n1", fx.RunBatch) for key in keys_of(e)]
    (key,) = set(at_it) - set(world.computed)
    world.bad = {key, "item 3"}
    world.tell_to_end("n1")
    world.run(until_s=22.0)
    assert key in world.computed, "it has failed there"
    assert not any(world.reports.values())
    world.bad = world.bad - {key}  # what was wrong there is not wrong elsewhere
    world.run()
    assert [job_id for job_id, error in world.reports.items() if error] == [3]
    assert len(world.reports) == 4 and not world.complaints


def test_a_read_that_fails_there_is_tried_elsewhere() -> None:
    world = two_nodes(read_s=10.0)
    for job_id in range(4):
        world.submit(job_id, [f"item {job_id}"])
    failing = ["n1"]
    read = world._read

    def fail_there(worker: str, job_id: int) -> None:
        if world.node_of[worker] not in failing:
            read(worker, job_id)
            return
        error = {"kind": "tool", "type": "OSError", "message": "gone", "traceback": ""}
        world._answer(worker, "read_failed", job=job_id, error=error)

    world._read = fail_there  # type: ignore[method-assign]
    world.at(5.0, lambda: world.tell_to_end("n1"))
    world.run()
    assert set(world.reports.values()) == {None} and len(world.reports) == 4


def test_a_machine_that_comes_back_is_used_again() -> None:
    world = two_nodes(hosts=("n1",))
    world.take(ev.DevicesForeseen(world.devices))  # it may
    for job_id in range(4):
        world.submit(job_id, [f"item {job_id}"])
    world.at(15.0, lambda: world.tell_to_end("n1"))
    world.at(60.0, lambda: world.join("n1"))
    world.run()
    assert set(world.reports.values()) == {None} and len(world.reports) == 4
    assert any(time_s >= 60.0 for time_s, _ in on(world, "n1", fx.RunBatch))


def test_time_that_runs_out_is_another_matter() -> None:
    """What was sent ahead is known to fit: it is finished."""
    world = two_nodes()
    for job_id in range(8):
        world.submit(job_id, [f"item {job_id}"])
    world.at(15.0, lambda: world.lose("n1", with_its_processes=False))
    world.run()
    assert not [e for _, e in on(world, "n1", fx.StopWorker) if e.force]
