"""Worlds drawn at random: tools, jobs, leases, rows of short jobs, deaths, nodes that go."""

from __future__ import annotations

import functools
import random
from typing import Any

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.forecast import Forecast, Need, Wave, kind_of
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

#: Until when jobs arrive and workers are killed.
BUSY_S = 40.0


def random_world(seed: int, *, foresees: bool = True) -> World:
    """Return a world with everything that is going to happen in it; ``run`` lets it."""
    rng = random.Random(seed)
    world = World(**_options(rng))
    keys = [f"k{number}" for number in range(rng.randint(5, 60))]
    models = ["m", "m2", "m3"][: rng.randint(1, 3)]
    _add_faults(world, rng, keys, models)
    _add_jobs(world, rng, keys, models)
    _add_events(world, rng)
    if seed % 3 and foresees:
        _add_forecasts(world, random.Random(f"forecasts of {seed}"))
    return world


def _options(rng: random.Random) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for name, value, share in (
        ("can_move", True, 0.5),
        ("persistent", False, 0.15),
        ("deterministic", False, 0.2),
        ("pads", False, 0.3),
    ):
        if rng.random() < share:
            info[name] = value
    return {
        "gpus": rng.randint(1, 4),
        "load_s": rng.choice([0.5, 2.0, 5.0]),
        "budget_tokens": rng.choice([2, 8, 32]),
        "dispatch_s": rng.choice([0.0, 0.1]),
        "shares": rng.random() < 0.3,
        "file_workers": rng.choice([1, 1, 2]),
        "short_tokens": rng.choice([0, 0, 4, 10]),
        "packing": rng.random() < 0.3,
        "gpu_mib": rng.choice([None, 16000]),
        "strategy": rng.choice(list(OffloadStrategy)),
        "hosts": rng.choice([(), (), ("n0", "n1"), ("n0", "n1", "n2")]),
        "claim_s": rng.choice([0.0, 0.0, 0.5]),
        "foreign": {"cuda:0": rng.uniform(0.0, BUSY_S)} if rng.random() < 0.1 else {},
        "info": info,
    }


def _add_faults(world: World, rng: random.Random, keys: list[str], models: list[str]) -> None:
    for fault, happens, share in (
        (world.deadly, 0.3, 0.04),
        (world.bad, 0.3, 0.05),
        (world.roomy, 0.2, 0.05),
        (world.huge, 0.2, 0.03),
        (world.broken, 0.1, 0.02),
    ):
        if rng.random() < happens:
            fault |= {key for key in keys if rng.random() < share}
    for load_fault in (world.failing_loads, world.fatal_loads):
        if rng.random() < 0.1:
            load_fault.add(models[-1])


def _add_jobs(world: World, rng: random.Random, keys: list[str], models: list[str]) -> None:
    costs = {key: rng.choice([0.2, 1.0, 1.0, 2.0, 6.0]) for key in keys}

    def items() -> list[FakeItem]:
        drawn = rng.choices(keys, k=rng.choice([1, 1, 2, 5, 12]))
        return [FakeItem(key, costs[key], max(1, round(costs[key]))) for key in drawn]

    def submit(row: list[int], at_s: float, **options: Any) -> None:
        jobs = {job_id: (items(), rng.choice(models)) for job_id in row}

        def act() -> None:
            for job_id in row:
                world.declare(job_id, jobs[job_id][0], model=jobs[job_id][1])
            first, *follow = row
            drawn, model = jobs[first]
            world.submit(first, drawn, model=model, follow=follow, **options)

        world.at(at_s, act)

    for number in range(rng.randint(3, 30)):
        at_s = rng.choice([0.0, 0.0, rng.uniform(0.0, BUSY_S)])
        first = 10 * number
        if world.short_tokens and rng.random() < 0.3:
            row = [first, first + 1, first + 2]
            for _ in range(3):
                submit(row, at_s)
                at_s, row = at_s + rng.uniform(0.0, 6.0), row[1:]
        else:
            specs = [None, None, None, DeviceSpec("cpu", 1, ()), DeviceSpec("cuda", 2, ())]
            submit(
                [first],
                at_s,
                priority=rng.choice([0, 0, 2]),
                devices=rng.choice([*specs, DeviceSpec("cuda", 99, ())]),
                instance=rng.choice(["", "", "x"]),
            )


def _add_forecasts(world: World, rng: random.Random) -> None:
    """Have jobs foreseen, rightly and wrongly, once or again and again."""
    kinds = [f"k{number}" for number in range(rng.randint(1, 4))]
    names = [f"{kind}@{depth}" for depth in range(4) for kind in kinds]
    world.wave_of = lambda job_id: rng.choice(["", *names])

    def forecast() -> Forecast:
        waves: list[Wave] = []
        for name in names:
            before = rng.sample(waves, rng.randint(0, min(len(waves), 2)))
            after = tuple(Need(wave.name, rng.randint(0, 5)) for wave in before)
            waves.append(Wave(name, kind_of(name), "tool", rng.randint(0, 6), after))
        return Forecast(tuple(waves), is_complete=rng.random() < 0.7)

    for _ in range(rng.choice([1, 1, 5])):
        event = ev.JobsForeseen(forecast())
        at_s = rng.choice([0.0, rng.uniform(0.0, BUSY_S)])
        world.at(at_s, functools.partial(world.take, event))
    for _ in range(rng.choice([0, 1, 3])):
        over = ev.HandingOver(goes_on=rng.random() < 0.6)
        world.at(rng.choice([0.0, rng.uniform(0.0, BUSY_S)]), functools.partial(world.take, over))


def _add_events(world: World, rng: random.Random) -> None:
    for job_id in range(1000, 1000 + rng.choice([0, 0, 1, 3])):
        spec, hold_s = DeviceSpec("cuda", rng.choice([1, 1, 2]), ()), rng.uniform(1.0, 20.0)
        act = functools.partial(world.lease, job_id, spec, hold_s)
        world.at(rng.uniform(0.0, BUSY_S), act)
    for _ in range(rng.choice([0, 0, 2, 5])):
        world.at(rng.uniform(0.0, BUSY_S), lambda: world.kill_one(rng.choice))
    if world.hosts and rng.random() < 0.6:
        lost_s, together = rng.uniform(0.0, BUSY_S), rng.random() < 0.5
        world.at(lost_s, lambda: world.lose("n1", with_its_processes=together))
        world.at(lost_s + rng.uniform(1.0, 30.0), lambda: world.join("n1"))
    if rng.random() < 0.1:
        world.at(rng.uniform(1.0, BUSY_S), lambda: world.take(ev.WindDownWanted()))
