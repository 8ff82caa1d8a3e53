"""Which node reads and writes: where results were computed, and elsewhere if that is gone (D2)."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.models.model_worker import Stage
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import INFO, FakeItem
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.messages import ItemsRead

NODES = ("n1", "n2")


def cluster(**options: object) -> World:
    """Two nodes with a card each."""
    return World(**{"gpus": 1, "cpus": 0, "hosts": NODES, **options})  # type: ignore[arg-type]


def computed_on(world: World) -> dict[str, str]:
    """The node that computed each item."""
    batches = zip(world.effects(fx.RunBatch), world.batches, strict=True)
    return {key: world.node_of[batch.worker_id] for batch, keys in batches for key in keys}


def written_on(world: World) -> dict[int, str]:
    """The node that wrote each job's outputs."""
    return {e.request.job_id: world.node_of[e.worker_id] for e in world.effects(fx.WriteJob)}


def read_on(world: World) -> dict[int, str]:
    """The node that read each job's inputs."""
    return {e.request.job_id: world.node_of[e.worker_id] for e in world.effects(fx.ReadJob)}


def file_workers(world: World) -> list[fx.StartWorker]:
    """The file processes that were started."""
    return [effect for effect in world.effects(fx.StartWorker) if not effect.devices]


def test_outputs_are_written_where_most_of_them_was_computed() -> None:
    world = cluster(budget_tokens=1)
    jobs = {
        job_id: [FakeItem(f"{job_id}-{n}", cost=1.0 + (job_id * n) % 5) for n in range(4)]
        for job_id in range(30)
    }
    for job_id, items in jobs.items():
        world.submit(job_id, items)
    world.run()
    assert world.reports == dict.fromkeys(jobs)
    where, written = computed_on(world), written_on(world)
    assert set(where.values()) == set(written.values()) == set(NODES)
    for job_id, items in jobs.items():
        costs: defaultdict[str, float] = defaultdict(float)
        for item in items:
            costs[where[item.key]] += item.cost
        assert costs[written[job_id]] == max(costs.values()), job_id


def test_one_machine_names_no_node() -> None:
    world = World(gpus=2, budget_tokens=1)
    for job_id in range(20):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert [worker.node for worker in file_workers(world)] == [""]
    assert not world.scheduler.files.worker("tool.files1").node


def test_inputs_are_read_on_all_nodes() -> None:
    world = cluster(read_s=1.0)
    for job_id in range(40):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    counts = Counter(read_on(world).values())
    assert set(counts) == set(NODES) and min(counts.values()) >= 10, counts


def test_the_bound_of_file_processes_holds_on_each_node() -> None:
    world = cluster(file_workers=2, read_s=2.0)
    for job_id in range(200):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert Counter(worker.node for worker in file_workers(world)) == {"n1": 2, "n2": 2}


def test_a_node_has_its_file_process_before_its_first_result() -> None:
    world = cluster(start_s=5.0, load_s=1.0, budget_tokens=1)
    for job_id in range(4):
        world.submit(job_id, [FakeItem(f"i{job_id}", cost=20.0)])
    world.run()
    started_s = {
        world.node_of[e.worker_id]: time_s
        for time_s, e in reversed(world.log)
        if isinstance(e, fx.StartWorker) and not e.devices
    }
    models_s = {
        world.node_of[e.worker_id]: time_s
        for time_s, e in world.log
        if isinstance(e, fx.StartWorker) and e.devices
    }
    assert set(started_s) == set(models_s) == set(NODES)
    assert all(started_s[node] <= models_s[node] for node in NODES)


def test_a_call_has_no_process_for_files_on_any_node() -> None:
    """Its results are reported: nobody reads or writes."""
    world = cluster()
    world.declare(1, [FakeItem("a")])
    message = ItemsRead(1, ModelInfo("m", "", "g", 0), ("a",), (1.0,), (1,), ("a",), (b"a",))
    info = ToolInfo.from_fields(Fields(INFO, "a tool"))
    world.scheduler.submit_items(world.requests[1], info, message, 0.0)
    world._act()
    world.run()
    assert world.reports == {1: None} and not file_workers(world)


def test_of_results_from_two_nodes_the_costlier_part_decides() -> None:  # P5
    world = cluster(budget_tokens=1)
    for job_id in range(20):  # until both have the model
        world.submit(job_id, [FakeItem(f"i{job_id}", cost=5.0)])
    world.run()
    parts = [FakeItem("a", cost=5.0), FakeItem("b", cost=9.0)]
    for job_id, items in ((21, parts[:1]), (22, parts[1:]), (23, parts), (24, parts[::-1])):
        world.submit(job_id, items)
    world.run()
    where, written = computed_on(world), written_on(world)
    assert where["a"] != where["b"]
    expected = {21: where["a"], 22: where["b"], 23: where["b"], 24: where["b"]}
    assert {job_id: written[job_id] for job_id in expected} == expected


def test_a_job_whose_results_were_there_is_written_anywhere() -> None:  # P5
    """Results that all jobs share must not have one node write everything."""
    world = cluster(read_s=1.0)
    world.submit(0, ["a"])
    world.run()
    for job_id in range(1, 41):
        world.submit(job_id, ["a"])
    world.run()
    assert world.computed == ["a"] and world.reports == dict.fromkeys(range(41))
    counts = Counter(node for job_id, node in written_on(world).items() if job_id)
    assert set(counts) == set(NODES) and min(counts.values()) >= 10, counts


def written_slowly() -> World:
    """All of 60 jobs is computed; most wait to be written, on both nodes. Few are sent ahead."""
    world = cluster(budget_tokens=1, seconds_per_cost=0.1, read_s=0.01, write_s=60.0)
    for job_id in range(60):
        world.submit(job_id, [f"i{job_id}"])
    world.run(until_s=30.0)
    world.write_s = None
    assert len(world.computed) == 60
    assert set(written_on(world).values()) == set(NODES)
    waiting = world.scheduler.files.tool(world.requests[0].tool).homes
    assert min(len(waiting[node]) for node in NODES) > 10
    return world


def test_writes_of_a_lost_node_go_to_others_and_nobody_is_blamed() -> None:  # W4
    world = written_slowly()
    sent = len(world.effects(fx.WriteJob))
    world.lose("n1")
    world.run()
    assert world.reports == dict.fromkeys(range(60))
    assert {world.node_of[e.worker_id] for e in world.effects(fx.WriteJob)[sent:]} == {"n2"}
    assert world.report_times[59] < 600, "without a wait for anything but what n2 was at"


def test_writes_of_a_node_that_leaves_go_to_others() -> None:
    """What its process has in flight it may finish."""
    world = written_slowly()
    before = Counter(written_on(world).values())
    world.lose("n1", with_its_processes=False)
    world.run()
    assert world.reports == dict.fromkeys(range(60))
    assert Counter(written_on(world).values())["n1"] == before["n1"], "nothing new for it"
    assert all(len(e.blobs) == 1 for e in world.effects(fx.WriteJob))
    assert len(world.effects(fx.WriteJob)) == 60, "nothing is written twice"


def test_a_node_whose_process_has_died_writes_again() -> None:  # W4
    """While its successor cannot start, others take what waits."""
    world = written_slowly()
    first = next(worker for worker in file_workers(world) if worker.node == "n1")
    world.kill(first.worker_id)
    world.run()
    assert world.reports == dict.fromkeys(range(60))
    for job_id in range(60, 80):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert sum(worker.node == "n1" for worker in file_workers(world)) == 2
    where, written = computed_on(world), written_on(world)
    assert {where[f"i{job_id}"] for job_id in range(60, 80)} == set(NODES)
    assert all(where[f"i{job_id}"] == written[job_id] for job_id in range(60, 80))


def test_a_node_on_which_no_file_process_starts_has_others_write() -> None:  # W4
    world = cluster(budget_tokens=1, fatal_starts={"n2"})
    for job_id in range(60):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert world.reports == dict.fromkeys(range(60))
    assert "n2" in computed_on(world).values()
    assert set(written_on(world).values()) == {"n1"}


def test_without_any_node_left_the_work_waits_for_one_that_comes() -> None:
    """Until then files are read and written where Snakemake is."""
    world = written_slowly()
    n3 = [Device("cuda:0", "cuda", 0).on("n3")]
    world.allocator.expect(n3, world.now_s)
    world.lose("n1")
    world.lose("n2")
    world.run()
    assert world.reports == dict.fromkeys(range(60))
    assert "" in written_on(world).values()
    world.devices += n3
    world.join("n3")
    world.submit(100, ["more"])
    world.run()
    assert world.reports[100] is None and written_on(world)[100] == "n3"


def test_a_chain_s_outputs_are_published_by_the_node_that_staged_them() -> None:
    world = cluster(short_tokens=9)
    world.lease(1000, parse_device("n1/cuda:0"), hold_s=1e6)  # so it can only be n2
    for job_id in range(8):
        world.declare(100 + job_id, [FakeItem(f"b{job_id}")], model="b", tool="later")
        world.submit(job_id, [f"a{job_id}"], model="a", follow=[100 + job_id])
    world.run(until_s=100.0)
    for job_id in range(100, 108):
        world.scheduler.submit(world.requests[job_id], world.now_s)
        world._act()
    world.run(until_s=200.0)
    assert {world.node_of[note["worker"]] for note in world.notes("stage_done")} == {"n2"}
    assert "n1" in read_on(world).values()
    published = [world.node_of[effect.worker_id] for effect in world.effects(fx.PublishJob)]
    assert published == ["n2"] * 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=4), min_size=1, max_size=12),
    st.lists(st.tuples(st.sampled_from(NODES), st.floats(0.0, 12.0), st.booleans()), max_size=5),
    st.integers(1, 2),
    st.floats(0.001, 3.0),
)
def test_nodes_that_come_and_go_cost_nobody_a_result(
    jobs: list[list[str]],
    losses: list[tuple[str, float, bool]],
    most: int,
    read_s: float,
) -> None:  # W4 P6
    world = cluster(budget_tokens=2, file_workers=most, read_s=read_s, load_s=0.3, shares=True)
    for job_id, items in enumerate(jobs):
        world.at(job_id * 0.7, lambda j=job_id, i=items: world.submit(j, i))  # type: ignore[misc]
    world.allocator.expect(world.devices, 0.0)
    for host, time_s, at_once in losses:
        world.at(time_s, lambda h=host, a=at_once: world.lose(h, with_its_processes=a))  # type: ignore[misc]
        world.at(time_s + 1.5, lambda h=host: world.lose(h))  # type: ignore[misc]
        world.at(time_s + 3.0, lambda h=host: world.join(h))  # type: ignore[misc]
    world.run()
    assert world.reports == dict.fromkeys(range(len(jobs)))
    for job_id, items in enumerate(jobs):
        assert world.results[job_id] == [f"result of {key}" for key in items]
    assert not world.scheduler.files.tool(world.requests[0].tool).homes


def test_a_node_that_is_about_to_end_is_given_no_batch_that_it_cannot_finish() -> None:
    world = World(gpus=1, cpus=0, hosts=("n1", "n2"), budget_tokens=1, load_s=0.1)
    world.ends_at_s["n1"] = 10.0
    for host in world.hosts:
        world.join(host)
    world.submit(1, [FakeItem(f"i{number}", 3.0) for number in range(12)])
    world.run()
    assert world.reports == {1: None}
    ran = [(s, world.node_of[b.worker_id]) for s, b in world.log if isinstance(b, fx.RunBatch)]
    on_n1 = [sent_s for sent_s, node in ran if node == "n1"]
    assert len(on_n1) == 3, "the fourth would take until after the node is gone"
    assert world.computed == list(dict.fromkeys(world.computed)), "nothing is computed twice"


def test_a_model_whose_weights_rest_beside_a_device_that_goes_is_computed_elsewhere() -> None:
    """A worker in host memory can return to its own device only; the model can go anywhere."""
    options: dict[str, Any] = {"strategy": OffloadStrategy.CPU, "info": {"can_move": True}}
    world = World(gpus=1, hosts=("n0", "n1"), **options)
    for job_id, model in enumerate(["m0", "m1", "m2"]):
        world.at(10.0 * job_id, functools.partial(world.submit, job_id, ["a"], model=model))
    world.run(29.0)
    (away,) = [w for w in world.scheduler.dispatch.lifecycle.workers.values() if not w.is_coming]
    world.at(30.0, functools.partial(world.lose, away.node, with_its_processes=False))
    world.at(40.0, functools.partial(world.submit, 9, ["b"], model=away.model.ident))
    world.run()
    assert world.reports == dict.fromkeys([0, 1, 2, 9])
    assert away.worker_id not in world.scheduler.dispatch.lifecycle.workers
    assert not world.notes("model_failed")


def test_a_model_that_waits_to_return_to_a_device_that_goes_is_computed_elsewhere() -> None:
    options: dict[str, Any] = {"strategy": OffloadStrategy.CPU, "info": {"can_move": True}}
    world = World(gpus=1, hosts=("n0", "n1"), seconds_per_cost=60.0, **options)
    for job_id, model in enumerate(["m0", "m1", "m2", "m3", "m0"]):
        at_s = [0.0, 0.0, 70.0, 70.0, 80.0][job_id]
        world.at(at_s, functools.partial(world.submit, job_id, [str(job_id)], model=model))
    world.run(90.0)
    workers = world.scheduler.dispatch.lifecycle.workers.values()
    (waiting,) = [worker for worker in workers if worker.stage is Stage.ASKING]
    assert waiting.has_loaded
    world.lose(waiting.node, with_its_processes=False)
    world.run()
    assert world.reports == dict.fromkeys(range(5)) and not world.notes("model_failed")
