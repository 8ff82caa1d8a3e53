"""Who pays for the time of devices: shares of jobs and overheads are all of it, whatever fails.

The oracle is the simulated world's own account of when each process computed what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.records.runs.costs import BUSY, account_of
from snakemake_executor_gpupool.records.runs.reader import EventReader
from snakemake_executor_gpupool.records.runs.states import Activity
from snakemake_executor_gpupool.records.runs.values import RunView
from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost, Work, by_cost
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.run_files import EPOCH_S, events_of, lines_of
from tests.unit.test_chains import Pipeline


@dataclass
class Metered:
    """Notes when each process computes; to be mixed into a world."""

    #: (worker, devices, from, to).
    computing: list[list[Any]] = field(default_factory=list)
    #: (after how many effects, when, worker) of each process that ended.
    ends: list[tuple[int, float, str]] = field(default_factory=list)

    def meter(self, world: Any) -> None:
        run_batch, run_chains, die = world._run_batch, world._run_chains, world._die
        later = world._later

        def noted(worker: str, seconds: float, act: Any, *, is_work: bool = False) -> None:
            if is_work:
                start_s = max(world.now_s, world._free_at.get(worker, 0.0))
                devices = len(world.scheduler.dispatch.worker(worker).devices)
                self.computing.append([worker, devices, start_s, start_s + seconds])
            later(worker, seconds, act)

        def working(do: Any) -> Any:
            def done(effect: Any) -> None:
                world._later = lambda *arguments: noted(*arguments, is_work=True)
                do(effect)
                world._later = later

            return done

        def died(worker: str, reason: str, **more: Any) -> None:
            for span in self.computing:
                if span[0] == worker and span[3] > world.now_s:
                    span[3] = max(span[2], world.now_s)
            if worker in world._alive:
                self.ends.append((len(world.log), world.now_s, worker))
            die(worker, reason, **more)

        world._run_batch, world._run_chains = working(run_batch), working(run_chains)
        world._die = died

    @property
    def device_s(self) -> float:
        return math.fsum(n * max(to_s - from_s, 0.0) for _, n, from_s, to_s in self.computing)


def metered(world: Any) -> Metered:
    meter = Metered()
    meter.meter(world)
    return meter


def paid_by_jobs(world: Any) -> float:
    ends = [*world.notes("job_done"), *world.notes("job_failed"), *world.notes("job_withdrawn")]
    return math.fsum(end.get("device_s", 0.0) for end in ends)


def check(world: Any, meter: Metered) -> None:
    """The invariant, three ways: the scheduler's sums, the jobs' ends, the batches' lines."""
    time = world.scheduler.dispatch.charging.time
    # A worker that is told to end while it computes is told so 0.01 s before it does.
    assert math.fsum(time.busy_s.values()) == pytest.approx(meter.device_s, rel=1e-6, abs=1e-9)
    overhead_s = math.fsum(time.overhead_s.values())
    assert time.jobs_s + overhead_s == pytest.approx(meter.device_s, rel=1e-6, abs=1e-9)
    assert paid_by_jobs(world) == pytest.approx(time.jobs_s, rel=1e-6, abs=1e-7)
    assert all(seconds >= -1e-9 for seconds in time.overhead_s.values())
    batches = [*world.notes("batch_done"), *world.notes("batch_lost")]
    batches_s = math.fsum(
        [s for each in batches for s in each.get("device_s", ())]
        + [s for each in batches for s in each.get("overhead_s", {}).values()]
        + [each.get("lost_s", 0.0) for each in batches]
    )
    assert batches_s == pytest.approx(meter.device_s, rel=1e-6, abs=1e-5)
    check_what_is_read_back(world, meter)


def check_what_is_read_back(world: Any, meter: Metered) -> None:
    """The run's files alone say the same, and where the rest of the devices' time went."""
    run = RunView(Path(), "run")
    reader = EventReader(run)
    reader.feed(lines_of(events_of(world, meter.ends)))
    assert not reader.damaged_lines and not reader.unknown_events
    account = account_of(run)
    time = world.scheduler.dispatch.charging.time
    assert account.by_line.get("jobs", 0.0) == pytest.approx(time.jobs_s, rel=1e-5, abs=1e-5)
    for cause, seconds in time.overhead_s.items():
        assert account.by_line.get(cause, 0.0) == pytest.approx(seconds, rel=1e-5, abs=1e-5)
    for name, lines in account.by_device.items():
        busy_s = math.fsum(lines.get(line, 0.0) for line in BUSY)
        assert busy_s == pytest.approx(time.busy_s[name], rel=1e-5, abs=1e-5)
    held_s, ended_s = 0.0, {worker: EPOCH_S + time_s for _, time_s, worker in meter.ends}
    for worker in run.workers.values():
        if worker.devices and worker.started_at_s is not None:
            end_s = ended_s.get(worker.worker_id, run.end_s)
            away_s = sum(
                span.seconds(end_s) for span in worker.all_spans() if span.activity is Activity.AWAY
            )
            held_s += (end_s - worker.started_at_s - away_s) * len(worker.devices)
    assert math.fsum(account.by_line.values()) == pytest.approx(held_s, rel=1e-3, abs=1e-2)


def test_by_cost() -> None:
    assert by_cost(6.0, [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert by_cost(6.0, [0.0, 0.0]) == [3.0, 3.0]
    assert by_cost(6.0, []) == []


def test_a_batch_is_paid_by_cost_and_a_duplicate_by_all_who_asked() -> None:
    world = World(gpus=1, budget_tokens=100)
    shared = FakeItem("shared", cost=4.0)
    world.submit(1, [FakeItem("a", cost=2.0), shared])
    world.submit(2, [shared, shared, FakeItem("b", cost=3.0)])
    world.run()
    ends = {each["job_id"]: each for each in world.notes("job_done")}
    assert ends[1]["device_s"] == pytest.approx(2.0 + 4.0 / 3)
    assert ends[2]["device_s"] == pytest.approx(3.0 + 8.0 / 3)
    assert ends[1]["saved_s"] == pytest.approx(4.0 * 2 / 3)
    assert ends[2]["saved_s"] == pytest.approx(4.0 * 4 / 3)
    assert (ends[1]["items"], ends[2]["items"], ends[2]["duplicates"]) == (2, 3, 2)


def test_who_asks_for_what_is_there_pays_nothing() -> None:
    world = World(gpus=1)
    world.submit(1, [FakeItem("a", cost=2.0)])
    world.run()
    world.submit(2, [FakeItem("a", cost=2.0)])
    world.run()
    first, second = world.notes("job_done")
    assert (first["device_s"], second["device_s"]) == (2.0, 0.0)
    assert second["saved_s"] == 2.0


def test_a_worker_on_two_devices_counts_for_both() -> None:
    world = World(gpus=2)
    meter = metered(world)
    world.submit(1, [FakeItem("a", cost=3.0)], devices=DeviceSpec("cuda", 2))
    world.run()
    assert world.notes("job_done")[0]["device_s"] == 6.0
    check(world, meter)


def test_what_is_lost_with_a_worker_is_nobodys() -> None:
    world = World(gpus=1)
    meter = metered(world)
    world.submit(1, [FakeItem("a", cost=10.0)])
    world.at(5.0, lambda: world.kill_one(lambda names: next(n for n in names if "files" not in n)))
    world.run()
    assert world.reports == {1: None}
    lost_s = world.scheduler.dispatch.charging.time.overhead_s["lost"]
    assert 3.0 < lost_s < 5.0
    assert world.notes("job_done")[0]["device_s"] == 10.0
    check(world, meter)


def test_what_did_not_fit_is_nobodys_until_it_does() -> None:
    world = World(gpus=1, gpu_mib=1000, packing=True, budget_tokens=4, roomy={"r"})
    meter = metered(world)
    world.submit(1, ["a", "b"], model="m1", tool="other")
    world.submit(2, ["r", "c", "d"])
    world.run()
    assert world.scheduler.dispatch.charging.time.overhead_s["out_of_memory"] == pytest.approx(1.0)
    assert {each["device_s"] for each in world.notes("job_done")} == {2.0, 3.0}
    check(world, meter)


def test_a_job_that_was_not_started_has_paid_for_what_it_shared() -> None:
    world = World(gpus=1, cpus=0, budget_tokens=1)
    meter = metered(world)
    shared = FakeItem("shared", cost=5.0)
    world.submit(1, [shared, FakeItem("x", cost=3.0)])
    world.submit(2, [shared, FakeItem("y", cost=1.0)])
    world.at(7.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    (withdrawn,) = world.notes("job_withdrawn")
    assert withdrawn["device_s"] == 2.5
    check(world, meter)


def test_what_a_dispatch_made_beforehand_is_paid_when_its_job_comes() -> None:
    pipeline = Pipeline(gpus=1, short_tokens=8, cpus=0)
    meter = metered(pipeline)
    pipeline.row(1, ["x", "y"])
    pipeline.row(2, ["z"])
    pipeline.run()
    assert pipeline.counts["merged"]
    ends = {each["job_id"]: each["device_s"] for each in pipeline.notes("job_done")}
    assert min(ends.values()) > 0
    assert pipeline.scheduler.dispatch.charging.time.overhead_s["unclaimed"] == pytest.approx(0.0)
    check(pipeline, meter)


def test_what_no_job_comes_for_stays_nobodys() -> None:
    pipeline = Pipeline(gpus=1, short_tokens=8, cpus=0)
    meter = metered(pipeline)
    pipeline.other_params = {101, 102}
    pipeline.row(1, ["x", "y"])
    pipeline.run()
    check(pipeline, meter)


def test_energy_and_memory_follow_the_shares() -> None:
    work = Work(2.0, 4.0, "cuda", peak_mib=100, energy_j=8.0)
    assert work.energy_of(1.0) == 2.0
    assert Work(4.0, 4.0).energy_of(1.0) is None
    cost = JobCost()
    cost.add(work, 1.0)
    cost.add(Work(2.0, 2.0, "cuda", peak_mib=60, energy_j=2.0), 2.0)
    assert (cost.device_s, cost.peak_mib, cost.energy_j) == (3.0, 100, 4.0)
    cost.add(Work(1.0, 1.0, "cuda"), 1.0)
    cost.add(work, 1.0)
    assert (cost.peak_mib, cost.energy_j) == (100, None), "of one batch the energy is unknown"


def test_what_was_kept_of_a_job_is_added_to_what_it_took() -> None:  # R6
    one = JobCost(1.0, "cuda", peak_mib=100, energy_j=2.0, batches=1)
    one.take(JobCost(2.0, "cuda", peak_mib=60, energy_j=3.0, batches=2))
    assert one == JobCost(3.0, "cuda", peak_mib=100, energy_j=5.0, batches=3)
    one.take(JobCost(1.0, "cuda", batches=1))
    assert (one.device_s, one.peak_mib, one.energy_j) == (4.0, 100, None)
    unknown = JobCost(1.0, "cuda", batches=1)
    unknown.take(JobCost(1.0, "cuda", energy_j=2.0, batches=1))
    assert unknown.energy_j is None


def test_what_workers_are_at_when_the_run_ends_is_lost() -> None:
    world = World(gpus=1, cpus=0)
    world.submit(1, [FakeItem("a", cost=10.0)])
    world.run(until_s=4.0)
    world.scheduler.dispatch.book_lost(4.0)
    time = world.scheduler.dispatch.charging.time
    assert time.overhead_s["lost"] == time.busy_s["cuda:0"] > 2.0
    world.scheduler.dispatch.book_lost(5.0)
    assert time.overhead_s["lost"] == time.busy_s["cuda:0"]


def test_jobs_that_were_merged_count_their_items() -> None:
    """What jobs say of their items adds up to what the run says: 12 items, 8 of them distinct.

    The simulated worker counts each of a later stage's items of a job once.
    """
    pipeline = Pipeline(gpus=1, short_tokens=8, cpus=0)
    pipeline.row(1, ["a", "b", "b"], stages=2)
    pipeline.row(2, ["a", "c", "d", "d"], stages=2)
    pipeline.run()
    assert pipeline.counts["saved"] == 2
    ended = pipeline.notes("job_done")
    ledger = pipeline.scheduler.ledger
    assert sum(event["items"] for event in ended) == ledger.items == 12
    duplicates = sum(event.get("duplicates", 0) for event in ended)
    assert duplicates == ledger.items - ledger.unique == 4


def test_what_a_job_worked_holds_its_items_that_failed_and_those_beside_them() -> None:
    """On one device the job's share of the time is its share of the device seconds."""
    world = World(gpus=1, budget_tokens=100, bad={"bad"})
    world.submit(1, [FakeItem("bad", cost=2.0), FakeItem("a", cost=4.0)])
    world.submit(2, [FakeItem("a", cost=4.0), FakeItem("b", cost=3.0)])
    world.run()
    (failed,), (done,) = world.notes("job_failed"), world.notes("job_done")
    assert (failed["device_s"], done["device_s"]) == (4.0, 5.0)
    files_s = done["worked_s"] - done["device_s"]
    assert failed["worked_s"] == pytest.approx(4.0 + files_s, abs=0.1)
    assert files_s < 1.0


def test_on_two_devices_a_job_worked_half_of_its_device_seconds() -> None:
    world = World(gpus=2)
    world.submit(1, [FakeItem("a", cost=3.0)], devices=DeviceSpec("cuda", 2))
    world.run()
    (done,) = world.notes("job_done")
    assert done["worked_s"] == pytest.approx(done["device_s"] / 2, abs=1.0)
    assert done["device_s"] == 6.0
