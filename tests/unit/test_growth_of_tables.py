"""What a scheduler holds does not grow with the jobs that have ended: W7, and G4 of a server."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import pytest

from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling import job_kinds
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of, wave_of_client
from snakemake_executor_gpupool.scheduling.models import failures, table, worker_names
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_chains import all_succeeded, pipeline

#: So many jobs, after which a table that has one entry for each stands out.
JOBS = 50
#: What any one table may have more of after three times as many jobs.
MAX_MORE = 20
_PLAIN = (str, bytes, int, float, bool, type(None), type, types.ModuleType)
_PLAIN += (types.FunctionType, types.MethodType, types.BuiltinFunctionType)  # type: ignore[assignment]


def tables(root: Any) -> dict[str, int]:
    """Return how many entries each kind of container has in all, by how it is reached."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    left: deque[tuple[str, Any]] = deque([("", root)])
    while left:
        path, value = left.popleft()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Collection):
            sizes[path] = sizes.get(path, 0) + len(value)
            entries = [*value.keys(), *value.values()] if isinstance(value, dict) else [*value]
            left.extend((f"{path}[]", each) for each in entries)
        fields = getattr(value, "__dict__", {})
        slots = getattr(type(value), "__slots__", ())
        names = [*fields, *([slots] if isinstance(slots, str) else slots)]
        left.extend((f"{path}.{name}", getattr(value, name, None)) for name in names)
    return sizes


def grown(world: World, jobs: Callable[[int], None]) -> dict[str, int]:
    """Return which tables have grown with the jobs from ``JOBS`` to three times as many."""
    for number in range(JOBS):
        jobs(number)
        world.run(world.now_s + 15.0)
    before = tables(world.core)
    for number in range(JOBS, 3 * JOBS):
        jobs(number)
        world.run(world.now_s + 15.0)
    after = tables(world.core)
    return {
        path: size - before.get(path, 0)
        for path, size in after.items()
        if size - before.get(path, 0) > MAX_MORE
    }


def a_world(**options: Any) -> World:
    config = DispatchConfig(idle=IdleTime(5.0), results_kept=10)
    return World(gpus=1, cpus=0, load_s=0.1, seconds_per_cost=0.01, config=config, **options)


def other_params(world: World) -> Callable[[int], None]:
    return lambda n: world.submit(n, [FakeItem(f"i{n}", group=f"g{n}")])


def other_models(world: World) -> Callable[[int], None]:
    return lambda n: world.submit(n, [f"i{n}"], model=f"m{n}")


def other_tools(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.submit(number, [f"i{number}"], tool=f"tool{number}")
        world.run(world.now_s + 10.0)
        world.take(ev.ToolRetired(world.requests[number].tool))
        world._act()

    return jobs


def failing(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.bad.add(f"i{number}")
        world.submit(number, [f"i{number}"])

    return jobs


def broken_groups(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.broken.add(f"i{number}")
        world.submit(number, [FakeItem(f"i{number}", group=f"g{number}")])

    return jobs


def failing_loads(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.failing_loads.add(f"m{number}")
        world.submit(number, [f"i{number}"], model=f"m{number}")

    return jobs


def deadly(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.deadly.add(f"i{number}")
        world.submit(number, [f"i{number}"])

    return jobs


def foreseen(world: World) -> Callable[[int], None]:
    """Each is of a run of its own."""

    def jobs(number: int) -> None:
        forecast, wave_of = forecast_of({number: Node(f"k{number}", "tool")})
        world.take(ev.JobsForeseen(forecast, f"run{number}"))
        wave = wave_of_client(wave_of[number], f"run{number}")
        world.submit(number, [f"i{number}"], wave=wave)
        world.run(world.now_s + 10.0)
        world.take(ev.RunLeft(f"run{number}"))
        world._act()

    return jobs


def left_behind(world: World) -> Callable[[int], None]:
    """Each is of a run that leaves while a worker has its job."""

    def jobs(number: int) -> None:
        forecast, wave_of = forecast_of({number: Node(f"k{number}", "tool")})
        world.take(ev.JobsForeseen(forecast, f"run{number}"))
        wave = wave_of_client(wave_of[number], f"run{number}")
        world.submit(number, [FakeItem(f"i{number}", cost=100.0)], wave=wave)
        world.run(world.now_s + 0.5)
        world.take(ev.RunLeft(f"run{number}"))
        world._act()

    return jobs


def not_read(world: World) -> Callable[[int], None]:
    """Nobody wants them any longer, after a process has died with them."""

    def jobs(number: int) -> None:
        world.read_s = 1.0
        world.submit(number, [f"i{number}"])
        world.run(world.now_s + 0.5)
        world.kill(next(iter(world.scheduler.files._tool_of)))
        world._act()
        world.take(ev.JobUnwanted(number, "its client has ended"))
        world.at(world.now_s + 10.0, lambda: world.take(ev.TimePassed()))

    return jobs


def cancelled(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.submit(number, [FakeItem(f"i{number}", cost=1000.0, group=f"g{number}")])
        world.run(world.now_s + 0.5)
        world.take(ev.JobUnwanted(number, "its client has ended"))
        world._act()

    return jobs


def preloads(world: World) -> Callable[[int], None]:
    return lambda n: world.submit(n, [], model=f"m{n}", loads_only=True)


def oversized(world: World) -> Callable[[int], None]:
    def jobs(number: int) -> None:
        world.huge.add(f"i{number}")
        world.submit(number, [f"i{number}"])

    return jobs


@pytest.mark.parametrize(
    "kind",
    [
        *(other_params, other_models, other_tools, failing, broken_groups, failing_loads),
        *(deadly, cancelled, preloads, oversized, foreseen, left_behind, not_read),
    ],
)
def test_no_table_grows_with_jobs_that_have_ended(  # W7
    kind: Callable[[World], Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_IDLE", 8)
    monkeypatch.setattr(table, "MAX_MEASURED", 8)
    monkeypatch.setattr(failures, "MAX_BROKEN", 8)
    monkeypatch.setattr(worker_names, "MAX_NUMBERED", 8)
    monkeypatch.setattr(job_kinds, "MAX_KINDS", 8)
    world = a_world()
    assert grown(world, kind(world)) == {}


def test_no_table_grows_with_rows_of_models(monkeypatch: pytest.MonkeyPatch) -> None:  # W7
    for where, name in ((table, "MAX_IDLE"), (table, "MAX_MEASURED"), (failures, "MAX_BROKEN")):
        monkeypatch.setattr(where, name, 8)
    monkeypatch.setattr(worker_names, "MAX_NUMBERED", 8)
    config = DispatchConfig(idle=IdleTime(5.0), results_kept=10)
    world = pipeline(gpus=0, cpus=1, load_s=0.1, seconds_per_cost=0.01, config=config)

    def jobs(number: int) -> None:
        first = 100 * (number + 1)
        world.rows[first] = [first, first + 1, first + 2]
        for stage, job_id in enumerate(world.rows[first]):
            item = FakeItem(f"i{number}/{stage}", group=f"g{number}.{stage}")
            world.declare(job_id, [item], model=f"m{number}.{stage}")
        world.release(first)

    assert grown(world, jobs) == {}


def test_no_model_is_forgotten_for_the_row_that_begins_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has the first stage's items where the row's process dies, or they are not merged."""
    monkeypatch.setattr(table, "MAX_IDLE", 1)
    for options in ({"fatal_chains": True}, {"later_load_s": 100.0, "gpus": 3}):
        world = pipeline(**options)
        world.row(1, ["a"])
        world.run()
        assert all_succeeded(world)
