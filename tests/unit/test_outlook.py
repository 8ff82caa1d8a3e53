"""What is decided with a forecast, rule by rule, each beside what is decided without."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable

import pytest

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Node, forecast_of
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.overdue import GRACE_S
from snakemake_executor_gpupool.scheduling.outlook import Outlook
from snakemake_executor_gpupool.testing.graph_runs import GraphRun
from snakemake_executor_gpupool.testing.graphs import Graph, GraphJob, random_graph
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

ONE_GPU = DeviceSpec("cuda", 1, ())
#: Seeds of small graphs, some of each shape; `bench/lookahead.py` tries hundreds.
QUICK = (15, 32, 33, 36, 39, 50, 53, 59, 61, 64, 67, 86, 93)


def graph_of(*jobs: tuple[str, float, list[int]], devices: int, load_s: float = 10.0) -> Graph:
    """Jobs of one item: model, seconds, what they read."""
    made = tuple(GraphJob(model, (seconds,), tuple(after)) for model, seconds, after in jobs)
    return Graph("test", made, devices, load_s, (1.0,) * len(made), knows_figures=True)


def loaded_models(run: GraphRun) -> list[str]:
    return [effect.params.decode() for effect in run.world.effects(fx.LoadModel)]


def loads_of(world: World, model: str) -> list[float]:
    return [
        time_s
        for time_s, effect in world.log
        if isinstance(effect, fx.LoadModel) and effect.params == model.encode()
    ]


def both(graph: Graph, *, foretells: bool = True) -> tuple[GraphRun, GraphRun]:
    """Run a graph without a forecast, and with one; ``foretells``: which says the models, too."""
    ahead = GraphRun(graph, looks_ahead=True, foretells=foretells)
    runs = GraphRun(graph, looks_ahead=False), ahead
    for run in runs:
        run.run()
    return runs


def test_the_model_is_evicted_whose_next_use_is_farthest() -> None:  # F1
    """Of two idle models the one used least recently is needed again, the other is not."""
    jobs = ("a", 1.0, []), ("b", 3.0, []), ("c", 1.0, [0, 1]), ("a", 1.0, [2])
    lru, belady = both(graph_of(*jobs, devices=2))
    assert loaded_models(lru) == ["a", "b", "c", "a"]
    assert loaded_models(belady) == ["a", "b", "c"]


def test_a_model_that_need_not_be_loaded_again_goes_first() -> None:
    """More jobs of b come once c's is done: c before b, though b asked first."""
    jobs = ("a", 5.0, []), ("b", 1.0, []), ("c", 1.0, []), ("b", 1.0, [2]), ("b", 1.0, [2])
    fifo, ranked = both(graph_of(*jobs, devices=1))
    assert loaded_models(fifo) == ["a", "b", "c", "b"]
    assert loaded_models(ranked) == ["a", "c", "b"]


def test_a_worker_computes_many_times_its_load_before_it_makes_room() -> None:
    """Jobs of b follow on those of a, of which many wait."""
    jobs: list[tuple[str, float, list[int]]] = []
    for number in range(20):
        jobs += [("a", 5.0, []), ("b", 1.0, [2 * number])]
    short, long = both(graph_of(*jobs, devices=1, load_s=20.0))
    assert loaded_models(short) == ["a", "b", "a", "b"]
    assert loaded_models(long) == ["a", "b"]


def test_a_free_device_loads_what_is_used_next() -> None:  # F1
    """b was evicted; c has no job left, so that its device gets free, long before b is needed."""
    jobs = ("a", 60.0, []), ("b", 1.0, []), ("c", 1.0, [1]), ("b", 1.0, [0, 2])
    without, ahead = both(graph_of(*jobs, devices=2))
    assert loaded_models(without) == loaded_models(ahead) == ["a", "b", "c", "b"]
    end_s, early_s = (max(run.world.report_times.values()) for run in (without, ahead))
    assert early_s == pytest.approx(end_s - 10.0, abs=0.2)


def test_an_idle_worker_without_a_job_left_makes_room_at_once() -> None:  # F1
    jobs = ("a", 60.0, []), ("b", 1.0, []), ("c", 1.0, [1]), ("b", 1.0, [0, 2])
    _, ahead = both(graph_of(*jobs, devices=2))
    after_s = loads_of(ahead.world, "b")[1] - ahead.world.report_times[2]
    assert 0.0 < after_s < 1.5 < GRACE_S


def test_as_many_workers_are_loaded_ahead_as_pay_for_the_jobs_to_come() -> None:  # F1
    jobs = [("a", 60.0, []), ("b", 1.0, []), *[("b", 10.0, [0]) for _ in range(8)]]
    without, ahead = both(graph_of(*jobs, devices=4))
    a_ends_s = ahead.world.report_times[0]
    assert [s < a_ends_s for s in loads_of(without.world, "b")] == [True, False, False]
    assert [s < a_ends_s for s in loads_of(ahead.world, "b")][:3] == [True] * 3
    assert max(ahead.world.report_times.values()) < max(without.world.report_times.values()) - 5.0


def test_on_free_devices_work_counts_that_will_come() -> None:
    """A job of b every four seconds, each takes twenty: one waits, more are to come."""
    jobs: list[tuple[str, float, list[int]]] = []
    for number in range(6):
        jobs += [("a", 4.0, [2 * number - 2] if number else []), ("b", 20.0, [2 * number])]
    without, ahead = both(graph_of(*jobs, devices=4))
    at_once = [sum(s < 15.0 for s in loads_of(run.world, "b")) for run in (without, ahead)]
    assert at_once[0] == 1 and at_once[1] > 1


def ahead_world(act: Callable[[World], object], at_s: float) -> World:
    """Let something happen while b, for which there is no work yet, is loading."""
    jobs = ("a", 60.0, []), ("b", 1.0, []), ("c", 1.0, [1]), ("b", 1.0, [0, 2])
    run = GraphRun(graph_of(*jobs, devices=2, load_s=10.0), looks_ahead=True)
    run.world.at(at_s, functools.partial(act, run.world))
    run.run()
    return run.world


def loads_of_b(world: World) -> list[float]:
    return loads_of(world, "b")


def test_what_is_loaded_ahead_is_given_up_when_somebody_is_ready() -> None:
    undisturbed = ahead_world(lambda world: None, 1.0)
    begins_s = loads_of_b(undisturbed)[1]
    moment_s = begins_s + 3.0

    world = ahead_world(lambda world: world.lease(99, ONE_GPU, 5.0), moment_s)

    granted_s = next(t for t, effect in world.log if isinstance(effect, fx.GrantLease))
    assert granted_s == pytest.approx(moment_s + world.stop_s, abs=0.05)
    assert set(world.reports.values()) == {None}


def test_work_for_what_is_loaded_ahead_keeps_its_device() -> None:
    """A job of b that nobody had foreseen comes while b loads: then a lease has to wait for it."""
    begins_s = loads_of_b(ahead_world(lambda world: None, 1.0))[1]

    def act(world: World) -> None:
        world.submit(50, [FakeItem("x")], model="b")
        world.at(world.now_s + 1.0, lambda: world.lease(99, ONE_GPU, 5.0))

    world = ahead_world(act, begins_s + 3.0)
    granted_s = next(t for t, effect in world.log if isinstance(effect, fx.GrantLease))
    assert world.report_times[50] < granted_s
    assert world.report_times[50] == pytest.approx(begins_s + 11.0, abs=0.2)


def test_nothing_is_loaded_ahead_where_somebody_waits_for_a_device() -> None:
    begins_s = loads_of_b(ahead_world(lambda world: None, 1.0))[1]
    world = ahead_world(lambda world: world.lease(99, ONE_GPU, 100.0), begins_s - 1.0)
    # The lease has the device: b waits for the one that a has.
    assert len(loads_of_b(world)) == 2
    assert loads_of_b(world)[1] > 60.0


def foreseen(
    world: World, nodes: dict[Hashable, Node], *, is_complete: bool = True
) -> dict[Hashable, str]:
    forecast, wave_of = forecast_of(nodes, is_complete=is_complete)
    world.take(ev.JobsForeseen(forecast))
    return wave_of


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_worker_without_a_job_left_ends_after_a_while(is_complete: bool) -> None:
    world = World(gpus=2)
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool")}
    wave_of = foreseen(world, nodes, is_complete=is_complete)
    world.submit(1, ["x"], model="a", wave=wave_of[1])
    world.submit(2, [FakeItem("y", 30.0)], model="b", wave=wave_of[2])
    world.run()
    ends = [(t, e) for t, e in world.log if isinstance(e, fx.StopWorker)]
    if not is_complete:  # a checkpoint may still bring one
        assert not ends
        return
    ((end_s, end),) = ends
    assert end.why == "no job of its model is left"
    assert GRACE_S <= end_s - world.report_times[1] <= GRACE_S + 1.1


def test_a_worker_stays_whose_model_has_jobs_to_come_or_being_read() -> None:
    world = World(gpus=2)
    nodes: dict[Hashable, Node] = {
        1: Node("a", "tool"),
        2: Node("b", "tool"),
        3: Node("a", "tool", [2]),
    }
    wave_of = foreseen(world, nodes)
    world.submit(1, ["x"], model="a", wave=wave_of[1])
    world.submit(2, [FakeItem("y", 30.0)], model="b", wave=wave_of[2])
    world.on_report = lambda job_id: (
        job_id == 2
        and world.at(world.now_s, lambda: world.submit(3, ["z"], model="a", wave=wave_of[3]))
    )
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 2
    assert not [end for end in world.effects(fx.StopWorker) if end.worker_id.endswith(".1")]


@pytest.mark.parametrize("is_known", [False, True])
def test_the_window_closes_once_nothing_else_can_come(is_known: bool) -> None:
    """Files are still read, but those of another model, as the jobs before have shown."""
    world = World(gpus=2, read_s=0.05, file_workers=1, config=DispatchConfig(batch_window_s=5.0))
    nodes: dict[Hashable, Node] = {1: Node("a", "tool"), 2: Node("b", "tool")}
    nodes |= {3: Node("a", "tool", [1]), **{n: Node("b", "tool", [2]) for n in range(4, 20)}}
    wave_of = foreseen(world, nodes) if is_known else {}
    for number, model in ((1, "a"), (2, "b")):
        world.submit(number, [f"i{number}"], model=model, wave=wave_of.get(number, ""))
    world.run()
    began_s = world.now_s
    world.submit(3, ["i3"], model="a", wave=wave_of.get(3, ""))
    for number in range(4, 20):
        world.submit(number, [f"i{number}"], model="b", wave=wave_of.get(number, ""))
    world.run()
    waited_s = world.finished_s["i3"] - 1.0 - began_s
    assert waited_s < 0.2 if is_known else waited_s > 17 * 0.05 - 0.01


def trickle(*, holds_back: bool = False, is_known: bool = True, fixed_s: float = 0.15) -> World:
    """Eight jobs computed at once, whose readers are handed out one after the other.

    ``holds_back``: only the first is.
    """
    known = Figures(load_s=1.0, s_per_cost=1.0, fixed_s=fixed_s)
    world = World(gpus=2, read_s=0.001, file_workers=1, budget_tokens=1000, figures={"b": known})
    nodes: dict[Hashable, Node] = {n: Node("a", "tool") for n in range(8)}
    nodes |= {8 + n: Node("b", "tool", [n]) for n in range(8)} | {99: Node("b", "tool")}
    wave_of = foreseen(world, nodes) if is_known else {}

    def submit(number: int, item: str, model: str) -> None:
        wave = wave_of.get(number, "")
        world.submit(number, [FakeItem(item, 0.01)], model=model, wave=wave)

    def ended(number: int) -> None:
        if number < (1 if holds_back else 8):
            at_s = world.now_s + 0.02 * number
            world.at(at_s, lambda: submit(8 + number, f"i{8 + number}", "b"))

    world.on_report = ended
    submit(99, "warm", "b")
    world.run()
    for number in range(8):
        submit(number, "same", "a")
    world.run()
    return world


def test_the_window_waits_for_many_jobs_that_are_a_moment_away() -> None:  # F1
    assert [len(b) for b in trickle(is_known=False).batches if "i8" in b] == [1]
    # One more than are still to come: those do not wait for the last ones.
    assert [len(b) for b in trickle().batches if "i8" in b] == [4]
    # Where a batch more costs nothing, nobody waits.
    assert [len(b) for b in trickle(fixed_s=0.0).batches if "i8" in b] == [1]


def test_jobs_that_are_held_back_are_waited_for_no_longer_than_the_window() -> None:
    world = trickle(holds_back=True)
    assert world.reports[8] is None
    waited_s = world.finished_s["i8"] - world.report_times[0]
    assert 0.1 < waited_s < DispatchConfig().batch_window_s + 0.1


def test_a_worker_makes_room_sooner_where_another_goes_on_with_its_work() -> None:
    """Two workers of a, whose jobs are many; the first of b's follows on a's first."""
    jobs: list[tuple[str, float, list[int]]] = [("a", 5.0, []) for _ in range(40)]
    jobs += [("b", 30.0, [0]), ("b", 30.0, [40])]
    _, ahead = both(graph_of(*jobs, devices=2, load_s=10.0))
    _, alone = both(graph_of(*jobs, devices=1, load_s=10.0))
    assert loaded_models(ahead)[:3] == ["a", "a", "b"]
    assert loads_of(ahead.world, "b")[0] < 100.0 < loads_of(alone.world, "b")[0]


def test_a_model_of_unknown_speed_takes_no_device_of_one_that_is_needed_again() -> None:
    """Of c many items wait, and nothing was measured; b is idle, but for a moment."""
    jobs = [GraphJob("a", (1.0,)), GraphJob("b", (3.0,), (0,))]
    jobs += [GraphJob("c", (1.0,) * 20, (1,)), GraphJob("b", (1.0,), (2,))]
    mistakes = (1.0,) * len(jobs)
    graph = Graph("test", tuple(jobs), 2, 100.0, mistakes, knows_figures=False)
    without, ahead = both(graph)
    assert loaded_models(without) == ["a", "b", "c", "c", "b"]
    assert loaded_models(ahead) == ["a", "b", "c"]


def test_work_that_will_come_takes_no_device_that_others_may_want() -> None:
    """As above, but jobs of c are to come, too, and nobody knows how many it will want."""
    jobs: list[tuple[str, float, list[int]]] = [("c", 1.0, [])]
    for number in range(6):
        jobs += [("a", 4.0, [2 * number - 1] if number else [0]), ("b", 20.0, [2 * number + 1])]
    _, alone = both(graph_of(*jobs, devices=4), foretells=False)
    _, beside = both(graph_of(*jobs, ("c", 1.0, [11]), devices=4), foretells=False)
    at_once = [sum(s < 26.0 for s in loads_of(run.world, "b")) for run in (alone, beside)]
    assert at_once[0] > at_once[1] == 1


def test_work_that_is_worth_a_load_does_not_wait_for_other_models() -> None:
    """b will be loaded again for its last job, and has more or less to do than a load takes."""
    some = [("a", 1.0, []), ("b", 1.0, []), ("c", 1.0, []), ("b", 1.0, [2]), ("d", 1.0, [1])]
    much = [some[0], ("b", 15.0, []), *some[2:]]
    orders = [loaded_models(both(graph_of(*jobs, devices=1))[1]) for jobs in (some, much)]
    assert [order[:2] for order in orders] == [["a", "c"], ["a", "b"]]


def test_a_worker_without_a_job_left_does_not_hold_others_up() -> None:
    """Two idle workers of a; b and c, which both have jobs to come, get one more each."""
    jobs: list[tuple[str, float, list[int]]] = [("a", 20.0, []) for _ in range(3)]
    jobs += [("b", 8.0, [0, 1, 2]) for _ in range(6)]
    _, ahead = both(graph_of(*jobs, devices=3, load_s=10.0))
    began_s = max(ahead.world.report_times[n] for n in range(3))
    assert [s - began_s < 1.0 for s in loads_of(ahead.world, "b")] == [True] * 3


def test_no_batch_waits_behind_another_where_a_worker_comes_sooner() -> None:  # P10
    """A worker has three seconds to go; a second one, which pays, is ready in half a second."""
    known = Figures(load_s=0.5, s_per_cost=1.0)
    world = World(gpus=2, load_s=0.5, start_s=0.0, figures={"m": known})
    world.submit(1, [FakeItem("x")])
    world.run()
    world.submit(2, [FakeItem("short", 3.0)])
    world.run(world.now_s + 0.1)
    began_s = world.now_s
    world.submit(3, [FakeItem("long", 20.0)])
    world.run()
    assert world.scheduler.dispatch.counts["model_loads"] == 2
    assert world.finished_s["long"] - began_s < 21.0


@pytest.mark.parametrize("seed", QUICK[:4])
def test_the_empty_forecast_changes_nothing(seed: int) -> None:
    runs = [GraphRun(random_graph(seed), looks_ahead=False) for _ in range(2)]
    runs[1].world.take(ev.JobsForeseen(Forecast()))
    for run in runs:
        run.run()
    first, second = ([(t, str(e)) for t, e in run.world.log] for run in runs)
    assert first == second


@pytest.mark.parametrize("seed", QUICK)
def test_a_forecast_costs_no_graph_more_than_three_hundredths(seed: int) -> None:
    graph = random_graph(seed)
    today = GraphRun(graph, looks_ahead=False).run()
    ahead = GraphRun(graph, looks_ahead=True).run()
    assert ahead.makespan_s <= 1.03 * today.makespan_s


def test_runs_have_forecasts_of_their_own_and_take_them_along() -> None:  # G2
    def foresee(world: World, run: str, kind: str, jobs: int) -> None:
        nodes: dict[Hashable, Node] = {n: Node(kind, "tool") for n in range(jobs)}
        world.take(ev.JobsForeseen(forecast_of(nodes)[0], run))

    world = World(gpus=1)
    foresee(world, "run1", "k", 5)
    foresee(world, "run2", "k", 3)
    counts = world.scheduler.outlook._table.counts
    assert {name: count.coming for name, count in counts.items()} == {"k@0:run1": 5, "k@0:run2": 3}
    world.submit(1, ["a"], wave="k@0:run1")
    foresee(world, "run2", "k", 2)
    counts = world.scheduler.outlook._table.counts
    assert (counts["k@0:run1"].coming, counts["k@0:run1"].in_flight) == (4, 1), "it counts on"
    assert counts["k@0:run2"].coming == 2
    foresee(world, "run1", "k", 4)
    count = world.scheduler.outlook._table.counts["k@0:run1"]
    assert (count.coming, count.in_flight, count.unread) == (4, 1, 1), "the same, said anew"
    world.run()
    assert not world.scheduler.outlook._table.is_complete, "others may come at any time"
    world.take(ev.RunLeft("run1"))
    assert set(world.scheduler.outlook._table.waves) == {"k@0:run2"}
    assert world.scheduler.outlook._table.is_shared
    world.take(ev.RunLeft("run2"))
    assert not world.scheduler.outlook.is_known
    assert not world.scheduler.outlook._table.is_shared


def test_what_a_job_takes_to_decide_does_not_grow_with_the_square_of_the_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    job_s = Outlook.job_s

    def counted(outlook: Outlook, model: Model) -> float | None:
        nonlocal looks
        looks += 1
        return job_s(outlook, model)

    def looks_per_job(models: int) -> float:
        nonlocal looks
        looks = 0
        jobs = [(f"m{number}", 0.01, []) for number in range(models)] * 4
        graph = dataclasses.replace(graph_of(*jobs, devices=2), knows_figures=False)
        GraphRun(graph, looks_ahead=True).run()
        return looks / len(jobs)

    monkeypatch.setattr(Outlook, "job_s", counted)
    few, many = looks_per_job(10), looks_per_job(60)
    assert many < 8 * few
