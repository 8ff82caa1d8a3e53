"""The scheduler's decisions, driven synchronously in simulated time."""

from __future__ import annotations

import math

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, parse_device
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.blame import MIN_TRIAL_S
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.wire.kept import result_key


def test_each_job_gets_its_own_results_in_its_order() -> None:  # P6
    world = World(gpus=1)
    world.submit(1, ["a", "b", "c"])
    world.submit(2, ["c", "a", "a"])
    world.submit(3, [])
    world.run()
    assert world.reports == {1: None, 2: None, 3: None}
    assert world.results[1] == ["result of a", "result of b", "result of c"]
    assert world.results[2] == ["result of c", "result of a", "result of a"]
    assert world.results[3] == []


def test_duplicates_are_computed_once_in_the_whole_run() -> None:  # P5
    world = World(gpus=1)
    world.submit(1, ["a", "b"])
    world.submit(2, ["b", "a"])
    world.run()
    world.submit(3, ["a"])
    world.at(world.now_s, lambda: None)
    world.run()
    assert sorted(world.computed) == ["a", "b"]
    assert world.results[3] == ["result of a"]
    assert (world.scheduler.ledger.items, world.scheduler.ledger.unique) == (5, 2)


def test_a_stochastic_tool_computes_every_place() -> None:  # P5
    world = World(gpus=1, info={"deterministic": False})
    world.submit(1, ["a", "a"])
    world.submit(2, ["a"])
    world.run()
    assert world.computed == ["a", "a", "a"]


def test_one_model_load_serves_all_jobs() -> None:  # T2
    world = World(gpus=1)
    for job_id in range(50):
        world.submit(job_id, [f"i{job_id}"])
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 1
    assert len(world.reports) == 50


def test_another_model_param_is_another_worker() -> None:  # T2
    world = World(gpus=2)
    world.submit(1, ["a"], model="m1")
    world.submit(2, ["a"], model="m2")
    world.run()
    assert sorted(world.computed) == ["a", "a"]
    assert world.scheduler.dispatch.counts["model_loads"] == 2
    assert world.scheduler.dispatch.counts["evictions"] == 0


def test_items_with_other_run_params_share_a_worker_but_no_batch() -> None:  # T2 P7
    world = World(gpus=1, budget_tokens=8)
    world.submit(1, [FakeItem("a", group="g1"), FakeItem("b", group="g1")])
    world.submit(2, [FakeItem("a", group="g2")])
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 1
    batches = [batch.items for batch in world.effects(fx.RunBatch)]
    assert all(len({item.group for item in items}) == 1 for items in batches)
    for item in (item for items in batches for item in items):
        space, model, _, key = item.key
        assert item.key == result_key(space, model, item.group, key), "as kept results are found"
    assert len(world.computed) == 3


def test_a_job_is_reported_when_its_last_item_is_done() -> None:  # P8
    world = World(gpus=1, budget_tokens=1)
    world.submit(1, [FakeItem("long", cost=9.0)])
    world.submit(2, [FakeItem("short", cost=1.0)])
    world.submit(3, [FakeItem("medium", cost=3.0)])
    world.run()
    # The shortest at once, to have some output; then the costliest first.
    assert sorted(world.report_times, key=world.report_times.__getitem__) == [2, 1, 3]


def test_the_first_batch_is_the_job_that_is_done_soonest() -> None:  # P8
    world = World(gpus=2, budget_tokens=8)
    world.submit(1, [FakeItem("a", cost=9.0), FakeItem("b", cost=0.5)])
    world.submit(2, [FakeItem("c", cost=2.0), FakeItem("d", cost=1.0)])
    world.submit(3, [FakeItem("e", cost=4.0)])
    world.submit(4, [FakeItem(f"f{n}") for n in range(20)])
    world.run()
    assert world.computed[:2] == ["c", "d"] and min(world.report_times.values()) < 5.0
    assert world.report_times[2] == min(world.report_times.values())


def test_a_call_that_is_one_job_is_divided_all_the_same() -> None:  # P3
    world = World(gpus=4, budget_tokens=64)
    world.submit(1, [FakeItem(f"i{n}") for n in range(32)])
    world.run()
    assert max(len(batch.items) for batch in world.effects(fx.RunBatch)) <= 4


def test_one_call_settles_it_where_no_item_is_to_blame() -> None:  # C3
    world = World(gpus=2, broken={f"i{n}" for n in range(100)}, budget_tokens=4)
    for job_id in range(50):
        world.submit(job_id, [f"i{2 * job_id}", f"i{2 * job_id + 1}"])
    world.submit(50, ["other"], model="sound")
    world.submit(53, [FakeItem("k", group="other params"), FakeItem("l", group="other params")])
    world.run()
    world.at(world.now_s + 5, lambda: world.submit(51, ["i3"]))
    world.run()
    batches = [batch.items for batch in world.effects(fx.RunBatch)]
    calls = sum(item.key[-1] in world.broken for items in batches for item in items[:1])
    assert calls <= 2 * 2, "what two workers had been sent by then"
    told = [world.reports[job_id] for job_id in [*range(50), 51]]
    assert all("tool " in text and text.endswith("returned a dict") for text in told)
    assert all("item" not in text for text in told)
    assert world.reports[50] is None and world.reports[53] is None
    world.submit(52, ["j"], attempt=2)  # somebody tries again, and it may be right by now
    world.run()
    assert world.reports[52] is None and world.computed[-1] == "j"


def test_a_remark_is_said_once() -> None:  # C4
    world = World(gpus=1)
    world.submit(1, ["a"])
    world.run()
    worker = next(effect.worker_id for effect in world.effects(fx.ReadJob))
    for text in ("rule a: layer", "rule a: layer", "rule b: layer"):
        world.scheduler.answers.remark(worker, text, world.now_s)
    texts = [effect.text for effect in world.scheduler.outbox.take() if type(effect) is fx.Remark]
    assert texts == ["rule a: layer", "rule b: layer"]


def test_one_bad_item_fails_its_own_jobs_only() -> None:  # P9 W3
    world = World(gpus=1, bad={"x"})
    world.submit(1, ["a", "x"])
    world.submit(2, ["b"])
    world.submit(3, ["x"])
    world.run()
    assert world.reports[2] is None
    assert world.reports[1] is not None and "x@1" in world.reports[1]
    assert world.reports[3] is not None and "x@0" in world.reports[3]
    assert world.scheduler.dispatch.counts["worker_crashes"] == 0


def test_a_failed_item_is_computed_again_for_a_retry() -> None:
    world = World(gpus=1, bad={"x"})
    world.submit(1, ["x"])
    world.run()
    world.bad.clear()
    world.submit(2, ["x"])
    world.run()
    assert world.reports[2] is None


def test_a_deadly_item_fails_alone_after_two_deaths_alone() -> None:  # W4
    world = World(gpus=1, deadly={"x"}, budget_tokens=16)
    for job_id, key in enumerate("abcdexfgh"):
        world.submit(job_id, [key])
    world.run()
    failed = {job_id for job_id, error in world.reports.items() if error}
    assert failed == {5}
    assert "SIGSEGV" in str(world.reports[5])
    assert world.scheduler.dispatch.counts["worker_crashes"] <= 3


def test_a_killed_worker_costs_nobody_a_result() -> None:  # W4 P3
    world = World(gpus=2, budget_tokens=4)
    for job_id in range(40):
        world.submit(job_id, [f"i{job_id}"])
    for time_s in (1.5, 3.0, 4.5):
        world.at(time_s, world.kill_first)
    world.run()
    assert set(world.reports.values()) == {None}
    assert len(world.reports) == 40


def test_a_load_that_fails_fails_its_jobs_and_frees_the_device() -> None:  # W8
    world = World(gpus=1, failing_loads={"broken"})
    world.submit(1, ["a"], model="broken")
    world.submit(2, ["b"], model="broken")
    world.submit(3, ["c"], model="fine")
    world.run()
    assert "no weights" in str(world.reports[1])
    assert "no weights" in str(world.reports[2])
    assert world.reports[3] is None


def test_a_model_whose_workers_die_while_loading_is_given_up_soon() -> None:  # W8 W4
    world = World(gpus=4, load_s=1.0, fatal_loads={"m"})
    world.submit(1, [f"i{n}" for n in range(100)])
    world.submit(2, ["a"], model="fine")
    world.run(60)
    assert "died while loading" in str(world.reports[1])
    assert world.reports[2] is None
    assert world.scheduler.dispatch.counts["worker_crashes"] <= 4 + 5
    assert MIN_TRIAL_S < world.report_times[1] < 2 * MIN_TRIAL_S


def test_deaths_while_loading_are_forgotten_once_it_has_loaded() -> None:  # W4
    world = World(gpus=1, load_s=1.0, seconds_per_cost=0.5)
    world.submit(1, ["a", "b", "c", "d"])
    world.run(0.5)
    for kill in ("loading", "loading", "ready", "loading", "loading", "ready"):
        world.run(world.now_s + 1.3 if kill == "loading" else world.now_s + 5.5)
        world.kill_first()
    world.run()
    assert world.reports[1] is None


def test_a_lone_item_never_pays_for_eight_loads() -> None:  # P4
    world = World(gpus=8)
    world.submit(1, ["a", "b"])
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 1


def test_a_device_is_taken_from_another_model_only_if_that_saves_a_load() -> None:  # P4 D5
    def evictions(items: int) -> int:
        known = Figures(load_s=10.0, s_per_cost=1.0)
        figures = {"m1": known, "m2": known}
        world = World(gpus=2, load_s=10.0, budget_tokens=1, figures=figures)
        world.submit(1, [f"a{n}" for n in range(30)], model="m1")
        world.run()
        assert world.scheduler.dispatch.counts["model_loads"] == 2
        world.submit(2, [f"b{n}" for n in range(items)], model="m2")
        world.run()
        assert set(world.reports.values()) == {None}
        return world.scheduler.dispatch.counts["evictions"]

    assert evictions(items=16) == 1, "8 s sooner are not worth 10 s on a device that m1 is on"
    assert evictions(items=40) == 2


def test_much_work_spreads_over_all_devices() -> None:  # P1 P3
    world = World(gpus=4, budget_tokens=4, load_s=0.5)
    world.submit(1, [FakeItem(f"i{n}") for n in range(400)])
    finished_s = world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 4
    assert finished_s < 400 / 4 * 1.1


def test_batches_hold_neighbours_in_length_within_the_budget() -> None:  # P7
    world = World(gpus=1, budget_tokens=120, seconds_per_cost=0.01)
    lengths = [10, 50, 12, 48, 11, 49, 9, 51]
    world.submit(1, [FakeItem(f"i{n}", cost=n, tokens=n) for n in lengths])
    world.run()
    for batch in world.effects(fx.RunBatch):
        tokens = [item.tokens for item in batch.items]
        assert len(tokens) == 1 or max(tokens) * len(tokens) <= 120
        assert max(tokens) - min(tokens) <= 3


def test_the_least_recently_used_idle_worker_makes_room() -> None:  # D5
    world = World(gpus=2)
    world.submit(1, ["a"], model="m1")
    world.run(5)
    world.submit(2, ["a"], model="m2")
    world.run(10)
    world.submit(3, ["b"], model="m1")
    world.run(15)
    world.submit(4, ["a"], model="m3")
    world.run()
    assert set(world.reports.values()) == {None}
    stopped = [stop.worker_id for stop in world.effects(fx.StopWorker)]
    assert stopped == ["tool.2"]
    assert world.scheduler.dispatch.counts["evictions"] == 1


def test_a_busy_worker_is_waited_for() -> None:  # D7 D6
    world = World(gpus=1, budget_tokens=1, seconds_per_cost=5.0)
    world.submit(1, ["a"], model="m1")
    world.run(3)
    world.lease(2, parse_device("cuda:0"), hold_s=2.0)
    assert 2 not in world.granted
    world.run()
    assert world.reports[1] is None
    assert [device.name for device in world.granted[2]] == ["cuda:0"]


def test_a_lease_is_never_shared() -> None:  # D11
    world = World(gpus=1)
    for job_id in range(3):
        world.lease(job_id, DeviceSpec("cuda", 1, ()), hold_s=1.0)
    world.submit(9, ["a"])
    assert list(world.granted) == [0]
    world.run()
    assert sorted(world.granted) == [0, 1, 2]
    assert world.reports[9] is None


def test_more_devices_than_managed_fail_at_once() -> None:  # D10
    world = World(gpus=2)
    world.submit(1, ["a"])
    world.run()
    world.lease(2, DeviceSpec("cuda", 3, ()), hold_s=1.0)
    assert "3" in str(world.reports[2])
    assert world.scheduler.dispatch.counts["evictions"] == 0


def test_without_a_gpu_tools_fall_back_to_the_cpu() -> None:  # D12
    world = World(gpus=0, cpus=1)
    world.submit(1, ["a"], devices=DeviceSpec("cuda", 1, ()))
    world.run()
    assert world.reports[1] is None


def test_a_tool_that_needs_a_gpu_fails_without_one() -> None:  # D12
    world = World(gpus=0, cpus=1, info={"devices": ["cuda"]})
    world.submit(1, ["a"])
    world.run()
    assert "cuda" in str(world.reports[1])


def test_an_idle_worker_ends_after_its_timeout() -> None:  # T7
    world = World(gpus=1, config=DispatchConfig(idle=IdleTime(5.0)))
    world.submit(1, ["a"])
    world.run()
    world.at(world.now_s + 6, lambda: world.scheduler.tick(world.now_s))
    world.run()
    assert [stop.why for stop in world.effects(fx.StopWorker)] == ["idle"]


def test_what_takes_long_to_load_is_kept_for_longer() -> None:  # T7 G1
    idle = IdleTime(5.0, loads=4.0, most_s=30.0)
    assert [idle.of(load_s) for load_s in (None, 1.0, 3.0, 100.0)] == [5.0, 5.0, 12.0, 30.0]
    assert IdleTime(60.0, loads=4.0, most_s=30.0).of(9.0) == 60.0
    assert IdleTime().of(1e9) == math.inf
    world = World(gpus=1, load_s=3.0, config=DispatchConfig(idle=idle))
    world.submit(1, ["a"])
    world.run()
    idle_from_s, stops = world.now_s, list[int]()
    for later_s in (4, 8, 11, 13):
        world.at(idle_from_s + later_s, lambda: world.scheduler.tick(world.now_s))
        world.run()
        stops.append(len(world.effects(fx.StopWorker)))
    assert stops == [0, 0, 0, 1], "4 times the 3 s that its model took to load"


def test_an_idle_worker_whose_weights_are_away_ends_too() -> None:  # T7
    """Its place in the machine's memory is not free."""
    config = DispatchConfig(idle=IdleTime(50.0))
    world = World(gpus=1, strategy=OffloadStrategy.CPU, info={"can_move": True}, config=config)
    world.submit(1, ["a"])
    world.at(10.0, lambda: world.submit(2, [FakeItem("b", 100.0)], model="m2"))
    for time_s in range(11, 80):
        world.at(float(time_s), lambda: world.scheduler.tick(world.now_s))
    world.run()
    assert [note["to"] for note in world.notes("model_moved")] == [["cpu"]]
    assert [stop.why for stop in world.effects(fx.StopWorker)] == ["idle"]
    assert world.reports == {1: None, 2: None}


def test_a_hung_batch_is_killed_and_retried_elsewhere() -> None:  # W5
    config = DispatchConfig(batch_limit_factor=2.0)
    world = World(gpus=1, config=config, info={"batch_limit_s": 10.0})
    slow = {"x": 1e6}
    world.seconds_per_cost = lambda key: slow.pop(key, 1.0)
    world.submit(1, ["x"])
    for time_s in range(1, 40):
        world.at(time_s, lambda: world.scheduler.tick(world.now_s))
    world.run(1000)
    assert world.reports[1] is None
    assert world.scheduler.dispatch.counts["worker_crashes"] == 1


def test_a_file_process_that_hangs_is_ended_and_its_job_fails_in_the_end() -> None:  # W5
    world = World(gpus=1)
    world.submit(1, ["a"])
    world.submit(2, ["b"])
    real_read = world._read
    world._read = lambda worker, job_id: real_read(worker, job_id) if job_id == 2 else None  # type: ignore[method-assign]
    for time_s in range(0, 4000, 100):
        world.at(time_s, lambda: world.scheduler.tick(world.now_s))
    world.run(4000)
    assert "2 processes died while reading" in str(world.reports[1])
    assert world.reports[2] is None


def test_a_one_shot_tool_gets_a_fresh_process_each_time() -> None:  # T3
    world = World(gpus=1, info={"persistent": False}, budget_tokens=1)
    world.submit(1, ["a", "b", "c"])
    world.run()
    assert world.reports[1] is None
    assert world.scheduler.dispatch.counts["model_loads"] == 3
    assert world.allocator.allocation_map()["cuda:0"] == []


def test_higher_priority_goes_first() -> None:  # M4
    world = World(gpus=1, budget_tokens=1)
    for job_id in range(6):
        world.submit(job_id, [f"i{job_id}"], priority=10 if job_id == 5 else 0)
    world.run()
    assert world.computed[0] == "i5"


def test_named_instances_have_their_own_workers() -> None:  # T4
    world = World(gpus=2)
    world.submit(1, ["a"], instance="A")
    world.submit(2, ["b"], instance="B")
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 2


def test_a_file_process_that_dies_twice_on_one_job_fails_that_job_only() -> None:  # W4
    world = World(gpus=1)
    world.submit(1, ["a"])
    world.submit(2, ["b"])
    real_read = world._read

    def read(worker: str, job_id: int) -> None:
        if job_id == 1:
            world.kill(worker)
        else:
            real_read(worker, job_id)

    world._read = read  # type: ignore[method-assign]
    world.run()
    assert "2 processes died while reading" in str(world.reports[1])
    assert world.reports[2] is None


def test_the_same_events_give_the_same_effects() -> None:
    def story() -> list[str]:
        world = World(gpus=3, budget_tokens=4, bad={"i7"}, deadly={"i9"})
        for job_id in range(30):
            world.submit(job_id, [f"i{job_id}", f"i{(job_id * 7) % 30}"])
        world.run()
        return [f"{time_s} {effect}" for time_s, effect in world.log]

    assert story() == story()


def test_items_that_nobody_waited_for_are_computed_for_a_retry() -> None:  # P9 S4
    world = World(gpus=1, budget_tokens=1, bad={"x"})
    world.submit(1, [FakeItem("x", cost=9.0), "a", "b"])
    world.run()
    assert world.reports[1] is not None
    world.bad.clear()
    world.submit(2, ["x", "a", "b"])
    world.run(100)
    assert world.reports.get(2, "never reported") is None


def test_a_load_that_hangs_every_time_is_given_up() -> None:  # W5 W8
    world = World(gpus=1, config=DispatchConfig(load_limit_s=30.0))
    world._loaded = lambda worker, model: None  # type: ignore[method-assign]
    world.submit(1, ["a"])
    world.run(1000)
    assert "died while loading" in world.reports.get(1, "never reported")  # type: ignore[operator]


def test_the_runtime_of_a_rule_limits_its_batches_and_nobody_elses() -> None:  # W5
    world = World(gpus=2, budget_tokens=1, seconds_per_cost=lambda key: 90.0)
    world.submit(1, ["a"], timeout_s=60.0)
    world.submit(2, ["b"])
    world.run(2000)
    assert "2 workers died while computing it alone" in str(world.reports[1])
    assert 120 < world.report_times[1] < 140
    assert world.reports[2] is None


def test_a_batch_may_take_as_long_as_its_cost_lets_expect() -> None:  # W5
    world = World(gpus=1, budget_tokens=1, info={"batch_limit_s": 5.0})
    world.submit(1, [FakeItem("small", cost=0.5)])
    world.run(10)
    world.submit(2, [FakeItem("large", cost=9.0)])
    world.run(100)
    assert world.reports == {1: None, 2: None}, "9 s is less than 20 times what it should take"
    assert world.scheduler.dispatch.counts["worker_crashes"] == 0


def test_the_runtime_of_a_rule_limits_reading() -> None:  # W5
    world = World(gpus=1)
    real_read = world._read
    world._read = lambda worker, job_id: real_read(worker, job_id) if job_id == 2 else None  # type: ignore[method-assign]
    world.submit(1, ["a"], timeout_s=10.0)
    world.submit(2, ["b"])
    world.run(100)
    assert "2 processes died while reading" in str(world.reports[1])
    assert world.reports[2] is None and world.report_times[1] < 30


def test_a_worker_that_ends_while_it_waits_to_return_leaves_the_line() -> None:
    """Its model is given up; a device that falls free later is not given to a process that ends."""
    world = World(gpus=2, strategy=OffloadStrategy.CPU, info={"can_move": True}, budget_tokens=1)
    world.lease(9, DeviceSpec("cuda", 1, ()), hold_s=20.0)
    world.submit(1, [FakeItem(f"i{n}", 2.0) for n in range(200)])
    world.at(5.0, lambda: world.submit(2, [FakeItem("long", 100.0)], model="m2", priority=1))
    world.at(15.0, lambda: world.failing_loads.add("m"))
    world.run(60.0)
    assert [note["to"] for note in world.notes("model_moved")] == [["cpu"]]
    assert world.reports[1] is not None and "no weights" in world.reports[1]
    assert not world.scheduler._allocator.snapshot().waiting
    world.run()
    assert world.reports[2] is None and world.scheduler.dispatch.counts["worker_crashes"] == 0
