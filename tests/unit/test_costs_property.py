"""Shares of jobs and overheads are all of the devices' time, whatever fails: properties."""

from __future__ import annotations

import functools
import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem
from tests.unit.test_chains import Pipeline
from tests.unit.test_cost_shares import check, metered

faults = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "gpus": st.integers(1, 3),
        "jobs": st.integers(1, 12),
        "kills": st.integers(0, 5),
        "deadly": st.integers(0, 2),
        "bad": st.integers(0, 2),
        "roomy": st.integers(0, 2),
        "huge": st.integers(0, 1),
        "models": st.integers(1, 3),
        "offload": st.booleans(),
        "wind_down": st.booleans(),
        "two_devices": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(faults)
def test_shares_and_overheads_are_all_device_time_whatever_fails(
    plan: dict[str, Any],
) -> None:  # R6
    rng = random.Random(plan["seed"])
    keys = [f"k{number}" for number in range(20)]
    world = World(
        gpus=plan["gpus"],
        budget_tokens=6,
        gpu_mib=1000,
        packing=rng.random() < 0.5,
        strategy=OffloadStrategy.CPU if plan["offload"] else OffloadStrategy.RESTART,
        info={"can_move": plan["offload"]},
        deadly=set(rng.sample(keys, plan["deadly"])),
        bad=set(rng.sample(keys, plan["bad"])),
        roomy=set(rng.sample(keys, plan["roomy"])),
        huge=set(rng.sample(keys, plan["huge"])),
        dispatch_s=rng.choice([0.0, 0.3]),
    )
    meter = metered(world)
    costs = {key: rng.choice([0.0, 0.1, 1.0, 3.0]) for key in keys}
    for job_id in range(plan["jobs"]):
        items = [
            FakeItem(key, costs[key], rng.randint(1, 3))
            for key in rng.choices(keys, k=rng.randint(1, 6))
        ]
        model = f"m{rng.randrange(plan['models'])}"
        two = plan["two_devices"] and plan["gpus"] > 1 and rng.random() < 0.3
        devices = DeviceSpec("cuda", 2) if two else None

        submit = functools.partial(world.submit, job_id, items, model=model, devices=devices)
        world.at(rng.uniform(0.0, 20.0), submit)
    for _ in range(plan["kills"]):
        world.at(rng.uniform(0.5, 40.0), lambda: world.kill_one(rng.choice))
    if plan["wind_down"]:
        world.at(rng.uniform(1.0, 15.0), lambda: world.scheduler.wind_down(world.now_s))
    world.run()
    assert world.scheduler.is_quiet
    check(world, meter)


@settings(max_examples=40, deadline=None)
@example(218340, 0, True)  # a job fails while the dispatch that began with it goes on
@given(st.integers(0, 10**6), st.integers(0, 4), st.booleans())
@example(65753, 0, True)  # a job fails for a shared item while its merged run is in flight
@example(211999, 0, True)  # of two merged runs with an item in common, one comes to nothing
def test_merged_runs_keep_the_account_whatever_fails(
    seed: int, kills: int, odd: bool
) -> None:  # R6
    rng = random.Random(seed)
    pipeline = Pipeline(
        gpus=rng.randint(1, 3),
        cpus=0,
        short_tokens=8,
        dispatch_s=rng.choice([0.0, 0.5]),
        bad={f"k{rng.randrange(6)}/{rng.randrange(3)}"} if odd else set(),
        deadly={f"k{rng.randrange(6)}/{rng.randrange(3)}"} if odd and rng.random() < 0.5 else set(),
    )
    meter = metered(pipeline)
    pipeline.other_params = {100 * rng.randint(1, 5) + 1} if rng.random() < 0.5 else set()
    pipeline.changed = {100 * rng.randint(1, 5) + 2} if rng.random() < 0.5 else set()
    for number in range(1, rng.randint(2, 6)):
        items = [f"k{rng.randrange(6)}" for _ in range(rng.randint(1, 3))]
        pipeline.at(
            rng.uniform(0, 5), lambda number=number, items=items: pipeline.row(number, items)
        )
    for _ in range(kills):
        pipeline.at(rng.uniform(0.5, 20.0), lambda: pipeline.kill_one(rng.choice))
    pipeline.run()
    check(pipeline, meter)
