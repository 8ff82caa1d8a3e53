"""Parts of the scheduler append what has happened; the scheduler reacts once they have returned."""

from __future__ import annotations

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.domain_events import DomainEvents, JobComputed
from snakemake_executor_gpupool.testing.simulation import World


def test_what_a_reaction_appends_is_handled_in_turn() -> None:
    events = DomainEvents()
    events.append(JobComputed(1))
    events.append(JobComputed(2))
    seen = []
    for event in events.drain():
        seen.append(event)
        if event == JobComputed(1):
            events.append(JobComputed(3))
    assert seen == [JobComputed(1), JobComputed(2), JobComputed(3)]
    assert not len(events)


def test_a_lease_that_is_reported_as_not_started_is_granted_nothing() -> None:
    """Taking one job out of the line frees devices for the next, which is withdrawn as well."""
    world = World(gpus=2)
    world.lease(1, DeviceSpec("cuda", 1, ()), hold_s=10.0)
    world.lease(2, DeviceSpec("cuda", 2, ()), hold_s=10.0)
    world.lease(3, DeviceSpec("cuda", 1, ()), hold_s=10.0)
    assert set(world.granted) == {1}
    world.at(1.0, lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    withdrawn = {e.report.job_id for e in world.effects(fx.Report) if e.report.withdrawn}
    assert withdrawn == {2, 3} and set(world.granted) == {1}


def test_a_model_that_no_device_will_ever_hold_is_given_up_once() -> None:
    world = World(gpus=2, cpus=1)
    world.submit(1, [f"i{n}" for n in range(64)], devices=DeviceSpec("cuda", 3, ()))
    world.run()
    assert world.reports[1] is not None and len(world.notes("model_failed")) == 1
    assert not world.scheduler.dispatch.lifecycle.workers
