"""The comparison of the scheduler's tables notices each of them being wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.domain_events import JobComputed
from snakemake_executor_gpupool.scheduling.job_state import JobPhase
from snakemake_executor_gpupool.scheduling.models import table
from snakemake_executor_gpupool.scheduling.models.model_worker import ModelWorker, Stage
from snakemake_executor_gpupool.scheduling.scheduler import Scheduler
from snakemake_executor_gpupool.scheduling.waves import Count
from snakemake_executor_gpupool.testing import invariants, simulation
from snakemake_executor_gpupool.testing.random_world import random_world
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.fuzzing import cases


def at_work() -> Scheduler:
    """Return a scheduler amid all kinds of work: a worker computes, another one and job91 wait."""
    world = World(gpus=2, cpus=1, budget_tokens=4, read_s=0.4)
    world.lease(90, DeviceSpec("cuda", 1, ()), hold_s=1e6)
    world.submit(0, ["done early"], devices=DeviceSpec("cpu", 1, ()))
    world.run(3.5)
    world.submit(1, [f"i{n}" for n in range(30)])
    world.submit(2, [f"i{n}" for n in range(20, 40)])
    world.submit(4, ["other"], model="m2")
    world.run(6.0)
    world.lease(91, DeviceSpec("cuda", 2, ()), hold_s=1.0)
    world.run(7.0)
    world.submit(3, ["late"])
    assert world.reports == {0: None}
    return world.scheduler


def with_merges() -> Scheduler:
    """Return a scheduler with a merged run of jobs 0, 1, 2 at its second stage; job 1 is there."""
    world = World(gpus=1, short_tokens=128, seconds_per_cost=10.0)
    for job_id in range(3):
        world.declare(job_id, [FakeItem(f"i{job_id}")], model=f"m{job_id}")
    world.submit(0, [FakeItem("i0")], model="m0", follow=[1, 2])
    world.run(15.0)
    world.submit(1, [FakeItem("i1")], model="m1", follow=[2])
    assert world.scheduler.merges.held_jobs()
    return world.scheduler


def worker(scheduler: Scheduler, stage: Stage = Stage.READY) -> ModelWorker:
    workers = scheduler.dispatch.lifecycle.workers.values()
    return next(each for each in workers if each.stage is stage and each.devices[0].kind == "cuda")


def asking(scheduler: Scheduler) -> ModelWorker:
    workers = scheduler.dispatch.lifecycle.workers.values()
    return next(each for each in workers if each.stage is Stage.ASKING)


def in_flight(scheduler: Scheduler) -> Any:
    return worker(scheduler).in_flight[0]


def tool(scheduler: Scheduler) -> Any:
    return next(iter(scheduler.files._tools.values()))


def file_worker(scheduler: Scheduler) -> Any:
    return next(iter(tool(scheduler).workers.values()))


def waves(scheduler: Scheduler) -> Any:
    return scheduler.outlook._table


def kept(scheduler: Scheduler) -> Any:
    return next(iter(scheduler.ledger._unheld))


def set_to(target: Callable[[Scheduler], Any], **values: Any) -> Callable[[Scheduler], None]:
    """Return what sets attributes of a part of the scheduler."""

    def act(scheduler: Scheduler) -> None:
        part = target(scheduler)
        for name, value in values.items():
            setattr(part, name, value(getattr(part, name)) if callable(value) else value)

    return act


def list_under_another_id(s: Scheduler) -> None:
    workers = s.dispatch.lifecycle.workers
    workers["other"] = workers.pop(worker(s).worker_id)


def forget_worker(s: Scheduler) -> None:
    one = worker(s)
    del s.dispatch.lifecycle.workers[one.worker_id], one.model.workers[one.worker_id]


def list_model_twice(s: Scheduler) -> None:
    s.dispatch.models._models["other"] = worker(s).model


def end_job_of_waiter(s: Scheduler) -> None:
    del s.jobs._jobs[1]


def rename_key(s: Scheduler) -> None:
    items = s.ledger._work_items
    items["other"] = items.pop(next(iter(items)))


def merged(s: Scheduler) -> Any:
    return next(iter(s.merges._expected.values()))


#: What is broken, and the sentence that says so.
BREAKS: list[tuple[Callable[[Scheduler], Any], str]] = [
    (lambda s: s._events.append(JobComputed(1)), "1 domain events were left"),
    (lambda s: worker(s).model.workers.pop(worker(s).worker_id), "is a worker, and its model"),
    (lambda s: worker(s).model.workers.update(ghost=worker(s)), "ghost of model .* is no worker"),
    (list_under_another_id, "tool.* is listed as other"),
    (list_model_twice, "model .* is listed under the key of another"),
    (forget_worker, "holds devices, and is neither a worker nor a leased job"),
    (lambda s: s._allocator.gone(worker(s).worker_id, 7.0), "is ready, and holds no devices"),
    (lambda s: s._allocator.withdraw(asking(s).worker_id, 7.0), "asks for devices, and is not in"),
    (set_to(worker, devices=()), r"is on \(\), the allocator says"),
    (set_to(worker, stage=Stage.AWAY), "is away, its devices BUSY"),
    (set_to(asking, stage=Stage.STARTING), "is starting, and in line"),
    (set_to(worker, stage=Stage.ASKING), "asks for devices, and is not in line"),
    (set_to(worker, idle_since_s=1.0), "is idle, its devices BUSY"),
    (set_to(worker, stage=Stage.LOADING), "is loading, and has a batch in flight"),
    (set_to(in_flight, batch_id=lambda n: n + 1), "a batch is in flight twice"),
    (lambda s: setattr(in_flight(s).items[0], "group", "other"), "mixes groups"),
    (lambda s: worker(s).model.queue.push(in_flight(s).items[:1]), "is both in .* and in"),
    (lambda s: worker(s).model.queue.drain(), "waits for .*, which is nowhere"),
    (lambda s: worker(s).in_flight.clear(), "waits for .*, which is nowhere"),
    (lambda s: setattr(in_flight(s).items[0], "merged_runs", 1), "is merged, and in"),
    (end_job_of_waiter, "job 1 waits for .*, and has ended"),
    (lambda s: setattr(in_flight(s).items[0], "waiters", (1, 1)), "1 places of .*, and 2 wait"),
    (lambda s: setattr(in_flight(s).items[0], "waiters", ()), "are awaited"),
    (lambda s: setattr(in_flight(s).items[0], "result", b""), "is done, and waited for"),
    (set_to(lambda s: s.jobs[1], missing=lambda n: n - 1), "lacks .* results, and counts"),
    (lambda s: setattr(in_flight(s).items[0], "holders", 9), "holders, and counts 9"),
    (rename_key, "under the key of another item"),
    (set_to(lambda s: worker(s).model.queue, _count=99), "are in the queue of .*, it counts 99"),
    (
        lambda s: s.outlook._table._wave_of.update({99: "w"}),
        r"jobs \[99\] have ended, and are counted",
    ),
    (
        lambda s: s.outlook._table.counts.update(w=Count(in_flight=1)),
        "0 jobs of wave w are in flight",
    ),
    (set_to(kept, result=None), "is kept without a result"),
    (set_to(lambda s: s.ledger._unheld, size_bytes=lambda n: n + 1), "B of results are kept, and"),
    (lambda s: tool(s).writes.append(3, (0, 0)), "is reading, and in 2 queues"),
    (lambda s: tool(s).reads.append(1, (0, 0)), "is computing, and in a queue of files"),
    (set_to(lambda s: s.jobs[1], phase=JobPhase.WRITING), "is writing, and in 0 queues"),
    (lambda s: s.files._tool_of.clear(), "is not listed, or not on its node"),
    (lambda s: s.files._tool_of.update(ghost=tool(s)), "ghost is no process of tool"),
    (lambda s: tool(s).reading.add(99), r"jobs \[99\] of tool are read by no process"),
    (lambda s: file_worker(s)._sizes.append(1), "jobs in flight and .* sizes"),
    (set_to(file_worker, ready=False), "is starting, and has a job in flight"),
    (lambda s: s.leases._running.clear(), "neither a worker nor a leased job"),
    (lambda s: s.leases._running.add("job99"), "and nobody asked for them"),
    (lambda s: s.leases._running.add("job91"), "job91 runs on leased devices, and holds none"),
    (lambda s: s.leases._requests.pop("job91"), "neither a worker nor a lease"),
    (lambda s: s._allocator.withdraw("job91", 7.0), "job91 waits for devices, and is not in line"),
]
BREAKS_OF_MERGES: list[tuple[Callable[[Scheduler], Any], str]] = [
    (set_to(lambda s: merged(s).parts[0], merged_runs=2), "0 merged runs have .*, it counts 2"),
    (set_to(lambda s: s.ledger, computed=99), "99 items are computed, of"),
    (set_to(merged, is_over=True), "is expected of a merged run that is over"),
    (lambda s: s.merges._expected.clear(), "is held back for a merged run that is over"),
    (lambda s: s.merges._held.clear(), "is waiting, and in 0 queues"),
    (set_to(lambda s: s.merges._staged, size_bytes=lambda n: n + 1), "B are staged, and 1 counted"),
]


def test_tables_of_a_busy_scheduler_agree() -> None:
    invariants.check(at_work())
    invariants.check(with_merges())


@pytest.mark.parametrize(("wrong", "sentence"), BREAKS)
def test_a_wrong_table_is_named(wrong: Callable[[Scheduler], Any], sentence: str) -> None:
    scheduler = at_work()
    wrong(scheduler)
    with pytest.raises(invariants.TablesDisagree, match=sentence):
        invariants.check(scheduler)


@pytest.mark.parametrize(("wrong", "sentence"), BREAKS_OF_MERGES)
def test_a_wrong_table_of_merged_runs_is_named(
    wrong: Callable[[Scheduler], Any], sentence: str
) -> None:
    scheduler = with_merges()
    wrong(scheduler)
    with pytest.raises(invariants.TablesDisagree, match=sentence):
        invariants.check(scheduler)


def test_every_simulated_event_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(invariants, "check", seen.append)
    world = World(gpus=1)
    world.submit(1, ["a"])
    world.run()
    assert world.reports == {1: None} and len(seen) >= 5


@cases(6)
@given(seed=st.integers(0, 2**32))
def test_tables_agree_after_each_event_of_any_run(seed: int) -> None:
    """In every second one what has no work is forgotten, as where there are hundreds of models."""
    most_idle = table.MAX_IDLE if seed % 2 else 1
    with (
        mock.patch.object(simulation, "CHECKED_EACH", 10**9),
        mock.patch.object(table, "MAX_IDLE", most_idle),
    ):
        world = random_world(seed)
        world.run(300.0)
    assert world.log and not world.complaints
