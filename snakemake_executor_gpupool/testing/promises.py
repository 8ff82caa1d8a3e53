"""What the planner promises, tried out: workloads run through the real scheduler in simulation.

Used by the unit tests with a few seeds and by ``bench/planning.py`` with many.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from unittest import mock

from snakemake_executor_gpupool.scheduling.effects import RunBatch
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

#: One item costs this many times the median.
OUTLIER = 50.0
ITEMS_PER_JOB = 4


def heavy_tail(rng: random.Random, items: int) -> list[float]:
    """Return log-normal costs of median 1, one of them ``OUTLIER``, in random order."""
    costs = [rng.lognormvariate(0.0, 1.0) for _ in range(items - 1)] + [OUTLIER]
    rng.shuffle(costs)
    return costs


def mistaken(rng: random.Random, costs: Sequence[float]) -> list[float]:
    """Return the costs, each wrong by a random factor of 0.5 to 2."""
    return [cost * 2 ** rng.uniform(-1.0, 1.0) for cost in costs]


def least_makespan(costs: Sequence[float], workers: int) -> float:
    """Return what no schedule can beat: the mean load, or the longest item."""
    return max(sum(costs) / workers, *costs)


def static_makespan(costs: Sequence[float], shards: Sequence[Sequence[int]]) -> float:
    """Return when the last of the workers is done that compute their shards and nothing else."""
    return max(sum(costs[index] for index in shard) for shard in shards)


def round_robin(costs: Sequence[float], workers: int) -> float:
    """Return the makespan of dealing the items out in turn."""
    return static_makespan(costs, [range(first, len(costs), workers) for first in range(workers)])


def static_lpt(costs: Sequence[float], estimates: Sequence[float], workers: int) -> float:
    """Return the makespan of LPT shards made by the costs told, and never corrected."""
    shards: list[list[int]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for index in sorted(range(len(estimates)), key=lambda i: -estimates[i]):
        least = loads.index(min(loads))
        shards[least].append(index)
        loads[least] += estimates[index]
    return static_makespan(costs, shards)


def served(costs: Sequence[float], estimates: Sequence[float], workers: int) -> float:
    """Return the makespan under the scheduler, which knows the costs told; loads take no time."""
    truth = {f"i{number}": cost for number, cost in enumerate(costs)}
    guess = dict(zip(truth, estimates, strict=True))
    world = World(
        gpus=workers,
        start_s=0.0,
        load_s=0.0,
        read_s=1e-6,
        budget_tokens=80,
        seconds_per_cost=lambda key: truth[key] / guess[key],
    )
    items = [FakeItem(key, cost, max(1, round(10 * cost))) for key, cost in guess.items()]
    for number in range(0, len(items), ITEMS_PER_JOB):
        world.submit(number, items[number : number + ITEMS_PER_JOB])
    world.run()
    assert set(world.reports.values()) == {None}
    return max(world.finished_s.values())


def with_loads(
    costs: Sequence[float], load_s: float, workers: int, known: Figures | None = None
) -> tuple[float, int]:
    """Run items of one model that takes time to load; return the makespan and how many loads."""
    world = World(
        gpus=workers,
        start_s=0.0,
        load_s=load_s,
        read_s=1e-6,
        budget_tokens=8,
        figures={} if known is None else {"m": known},
    )
    world.submit(1, [FakeItem(f"i{number}", cost) for number, cost in enumerate(costs)])
    world.run()
    assert world.reports == {1: None}
    return max(world.finished_s.values()), world.scheduler.dispatch.counts["model_loads"]


def best_fixed_number(costs: Sequence[float], load_s: float, devices: int) -> float:
    """Return the least makespan that any number of workers, fixed beforehand, reaches."""
    with mock.patch.object(Model, "workers_wanted", lambda model, free, most, *more: most):
        most = min(devices, len(costs))  # more would have nothing to do
        return min(with_loads(costs, load_s, count + 1)[0] for count in range(most))


def two_runs(items: int, load_s: float, devices: int, item_s: float = 4.0) -> tuple[float, float]:
    """Return the makespans of a first run and of one that knows what the first measured."""
    makespans = []
    known: dict[str, Figures] = {}
    for _ in range(2):
        world = World(
            gpus=devices,
            start_s=0.0,
            load_s=load_s,
            read_s=1e-6,
            budget_tokens=8,
            figures=known,
        )
        world.seconds_per_cost = item_s
        world.submit(1, [FakeItem(f"i{number}") for number in range(items)])
        world.run()
        makespans.append(max(world.finished_s.values()))
        (model,) = world.scheduler.dispatch.models.values()
        known = {"m": model.figures()}
    return makespans[0], makespans[1]


def padding_of(batches: Iterable[Sequence[int]]) -> float:
    """Return the share of tokens that are padding, in batches padded to their longest item."""
    batches = list(batches)
    padded = sum(max(tokens) * len(tokens) for tokens in batches)
    return 1.0 - sum(map(sum, batches)) / padded


def in_arrival_order(tokens: Iterable[int], budget_tokens: int) -> list[list[int]]:
    """Fill micro-batches as the items come."""
    batches: list[list[int]] = [[]]
    for each in tokens:
        grown = [*batches[-1], each]
        if len(grown) > 1 and max(grown) * len(grown) > budget_tokens:
            batches.append([each])
        else:
            batches[-1] = grown
    return batches


def served_batches(
    jobs: Sequence[Sequence[FakeItem]], workers: int, budget_tokens: int
) -> list[list[int]]:
    """Return the tokens of every micro-batch that the scheduler makes of jobs."""
    world = World(
        gpus=workers,
        start_s=0.5,
        load_s=1.5,
        budget_tokens=budget_tokens,
        seconds_per_cost=1e-3,
    )
    for number, items in enumerate(jobs):
        world.submit(number, items)
    world.run()
    assert set(world.reports.values()) == {None}
    return [[item.tokens for item in batch.items] for batch in world.effects(RunBatch)]
