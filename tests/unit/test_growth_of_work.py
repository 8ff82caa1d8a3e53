"""What the scheduler does for a job does not grow with how many jobs and models there are: P6.

Lines of code are counted, and not time: the same on any machine, whatever else it does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Node, forecast_of
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing import invariants
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

#: So many models, and four times as many, with so many jobs each.
MODELS, MORE, JOBS_EACH = 6, 4, 16
#: What a job's lines may grow by with four times as many jobs and models.
MAX_GROWTH = 1.1
#: Parts of the paths of the files whose lines are counted.
COUNTED = ("/scheduling/", "/devices/")


class Lines:
    """Counts the lines of some files that run in a block; each turn of a loop counts."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts or COUNTED
        self._is_counted: dict[CodeType, bool] = {}
        self._turns = [0]

    @property
    def count(self) -> int:
        return self._turns[0]

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        turns = self._turns

        # Runs millions of times, and so does next to nothing.
        def line(frame: FrameType, event: str, argument: object) -> None:
            if event == "line":
                turns[0] += 1

        def called(frame: FrameType, event: str, argument: object) -> Any:
            code = frame.f_code
            is_counted = self._is_counted.get(code)
            if is_counted is None:
                is_counted = any(part in code.co_filename for part in self._parts)
                self._is_counted[code] = is_counted
            return line if is_counted else None

        sys.settrace(called)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(self._before)


def test_each_turn_of_a_loop_counts() -> None:
    def lines(size: int) -> int:
        with Lines() as counted:
            source = "def f(n):\n    return sum([1 for _ in range(n)]), any(0 for _ in range(n))\n"
            code: dict[str, Any] = {}
            exec(compile(source, "/scheduling/f.py", "exec"), code)
            code["f"](size)
        return counted.count

    assert lines(1000) - lines(500) == 2 * (lines(500) - lines(250))
    assert lines(1000) - lines(500) >= 1000


def a_world(gpus: int, **options: Any) -> World:
    return World(
        gpus=gpus,
        cpus=int(not gpus),
        load_s=0.05,
        start_s=0.02,
        seconds_per_cost=0.0005,
        **options,
    )


def foresee(world: World, nodes: dict[int, Node]) -> None:
    forecast, wave_of = forecast_of(nodes)
    world.take(ev.JobsForeseen(forecast))
    world.wave_of = lambda job_id: wave_of.get(job_id, "")


def submit(world: World, models: int, number: int, first: int = 0) -> None:
    """Make a job ready of one of so many models, which are others for another ``first``."""
    model = first + number % models
    world.submit(
        first + number, [FakeItem(f"i{first + number}", group=f"g{model}")], model=f"m{model}"
    )


def in_turn(
    models: int, *, gpus: int, every_s: float, is_known: bool = True, is_told: bool = False
) -> World:
    """One job of each model after the other; ``is_told``: the scheduler knows when it is over."""
    figures = dict.fromkeys((f"m{n}" for n in range(models)), Figures(0.07, 0.0005))
    world, jobs = a_world(gpus, figures=figures if is_told else {}), models * JOBS_EACH
    if is_told:
        world.take(ev.HandingOver(goes_on=True))
        world.at(jobs * every_s, lambda: world.take(ev.HandingOver(goes_on=False)))
    if is_known:
        foresee(world, {n: Node(f"k{n % models}", "tool") for n in range(jobs)})
    for number in range(jobs):
        world.at(number * every_s, partial(submit, world, models, number))
    return world


def in_rows(models: int) -> World:
    """Each job is followed by one of another model."""
    world, jobs = a_world(2), models * JOBS_EACH
    nodes = {n: Node(f"a{n % models}", "tool") for n in range(jobs)}
    nodes |= {jobs + n: Node(f"b{n % models}", "tool", (n,)) for n in range(jobs)}
    foresee(world, nodes)

    def ended(number: int) -> None:
        if number < jobs:
            world.at(world.now_s, partial(submit, world, models, number, jobs))

    world.on_report = ended
    for number in range(jobs):
        world.at(number * 0.002, partial(submit, world, models, number))
    return world


def leases(models: int) -> World:
    """Jobs that run by themselves wait for devices, and some models."""
    world = a_world(2)
    for number in range(models * JOBS_EACH):
        at_s = number * 0.001
        world.at(at_s, partial(world.lease, 10**6 + number, DeviceSpec("cuda"), 0.01))
    for number in range(MODELS):
        world.at(0.0, partial(submit, world, MODELS, number))
    return world


WORLDS: dict[str, Callable[[int], World]] = {
    "on the CPU": partial(in_turn, gpus=0, every_s=0.004),
    "on the CPU, not foreseen": partial(in_turn, gpus=0, every_s=0.004, is_known=False),
    "on the CPU, at once": partial(in_turn, gpus=0, every_s=0.0),
    "on GPUs": partial(in_turn, gpus=2, every_s=0.002),
    "on GPUs, handed over": partial(in_turn, gpus=2, every_s=0.002, is_told=True),
    "on GPUs, at once": partial(in_turn, gpus=2, every_s=0.0),
    "in rows": in_rows,
    "leases": leases,
}


def lines_a_job(make: Callable[[int], World], models: int) -> float:
    world = make(models)
    with Lines() as lines:
        world.run()
    assert len(world.reports) + len(world.granted) >= models * JOBS_EACH
    assert not any(world.reports.values())
    return lines.count / (len(world.reports) + len(world.granted))


@pytest.mark.parametrize("kind", WORLDS)
def test_a_job_takes_as_many_steps_with_more_models(  # P6
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "check", lambda scheduler: None)
    few, many = (lines_a_job(WORLDS[kind], models) for models in (MODELS, MORE * MODELS))
    assert many <= MAX_GROWTH * few, f"{few:.0f} lines a job, and {many:.0f}"


def jobs_called_off(jobs: int, *, shares: bool, reason: str | None) -> float:
    """Return the lines that it takes to call off one of many jobs of a model, which all wait."""
    world = a_world(1)
    for job_id in range(jobs):
        own = [FakeItem(f"i{job_id}.{number}", cost=1e5) for number in range(4)]
        world.submit(job_id, [*own, *[FakeItem("shared", cost=1e5)] * shares])
    world.run(20.0)
    waiting = [number for number in world.scheduler.jobs.ids() if number not in world.reports]
    assert len(waiting) > 0.9 * jobs and all(world.scheduler.jobs[n].all_read for n in waiting)
    with Lines() as lines:
        for job_id in waiting:
            world.take(ev.JobUnwanted(job_id, reason))
    world.run()
    assert len(world.reports) == jobs and len(world.computed) <= 16
    return lines.count / len(waiting)


@pytest.mark.parametrize(("shares", "reason"), [(False, "gone"), (True, "gone"), (False, None)])
def test_calling_off_a_job_takes_as_many_steps_among_more_of_its_model(  # P6
    shares: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "check", lambda scheduler: None)
    few, many = (jobs_called_off(jobs, shares=shares, reason=reason) for jobs in (50, 200))
    assert many <= MAX_GROWTH * few, f"{few:.0f} lines a job, and {many:.0f}"
