"""What the pool could use of devices, and machines that end (D2, D12)."""

from __future__ import annotations

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.demand import demand_of
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

NODES = ("n1", "n2")


def cluster(**options: object) -> World:
    """Two nodes with a card each."""
    return World(**{"gpus": 1, "cpus": 0, "hosts": NODES, **options})  # type: ignore[arg-type]


def demand(world: World) -> Demand:
    return demand_of(world.scheduler.dispatch, world.allocator, world.now_s)


def test_leased_devices_are_part_of_the_demand() -> None:
    """Else whoever gets more nodes would give those back that leases hold."""
    world = cluster()
    assert demand(world) == Demand(0, frozenset())
    world.lease(1, parse_device("cuda"), hold_s=50.0)
    held = demand(world)
    assert held.devices == 1 and held.busy_hosts == {world.granted[1][0].host}
    world.lease(2, parse_device("cuda"), hold_s=50.0)
    world.lease(3, parse_device("cuda"), hold_s=50.0)  # waits
    both = demand(world)
    assert both.devices == 3 and both.busy_hosts == set(NODES)
    world.run()
    assert demand(world).devices == 0


def test_models_with_work_are_part_of_the_demand_and_idle_ones_are_not() -> None:
    world = cluster(budget_tokens=1)
    world.submit(1, [FakeItem(f"{n}", cost=50.0) for n in range(40)])
    world.run(until_s=30.0)
    assert demand(world).devices > 2, "more nodes would pay"
    world.run()
    world.now_s = 5000.0
    assert demand(world) == Demand(0, frozenset())


def test_no_batch_goes_to_a_node_that_ends_before_it_would_be_done() -> None:  # W4
    world = cluster(budget_tokens=1, start_s=0.0, load_s=0.0, ends_at_s={"n1": 10.0})
    for node in NODES:
        world.lose(node)
        world.join(node)
    world.submit(1, [FakeItem(f"{n}", cost=4.0) for n in range(8)])
    world.run()
    assert world.reports == {1: None}
    sent = [(s, e) for s, e in world.log if isinstance(e, fx.RunBatch)]
    late = [s for s, e in sent if world.node_of[e.worker_id] == "n1" and s + 4.0 > 10.0]
    assert not late, "it would be lost, and computed again elsewhere"
    assert any(world.node_of[e.worker_id] == "n1" for _, e in sent), "what fits is done there"
