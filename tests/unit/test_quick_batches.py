"""Micro-batches of tools that say nothing of their size grow while they take no time (P7)."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.scheduling.models.batch_time import Speed
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.quick_batches import (
    MOST_BYTES,
    QUICK_S,
    QuickBatches,
)
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.worker.describe import QUICK_TOKENS, quick_budget

SPEED = Speed(s_per_cost=1e-5, fixed_s=0.001)


def quick(most_tokens: int = 512) -> QuickBatches:
    batches = QuickBatches()
    batches.most_tokens = most_tokens
    return batches


class Silent(Tool):
    """Says nothing of batches."""


class Counting(Silent):
    def tokens(self, item: object) -> int:
        return 2


class Sized(Silent):
    def batch_tokens(self, device: str) -> int:
        return 64


class Bounded(Silent):
    max_batch_tokens = 64


# -- how far ---------------------------------------------------------------------------------
def test_a_batch_goes_as_far_as_it_is_quick() -> None:
    batches = quick()
    batches.saw([b"x" * 100] * 3)
    assert batches.bounds(SPEED) == (512, pytest.approx((QUICK_S - 0.001) / 1e-5))


@pytest.mark.parametrize("speed", [Speed(), Speed(s_per_cost=0.0)])
def test_nothing_is_known_before_a_batch_was_measured(speed: Speed) -> None:
    batches = quick()
    assert batches.bounds(SPEED) == (0, 0.0), "no sizes yet"
    batches.saw([b"x"])
    assert batches.bounds(speed) == (0, 0.0)


def test_large_items_or_results_are_fewer() -> None:
    batches = quick()
    batches.saw([b"x"])
    batches.saw([b"r" * (MOST_BYTES // 128)] * 2)
    assert batches.bounds(SPEED)[0] == 128
    batches.saw([b"x"])
    assert batches.bounds(SPEED)[0] == 128, "the largest counts"
    batches.saw([])
    batches.saw([b"l" * (2 * MOST_BYTES)])
    assert batches.bounds(SPEED)[0] == 0


def test_one_that_was_not_quick_makes_the_next_ones_smaller() -> None:
    batches = quick()
    batches.saw([b"x"])
    for seconds, most in ((1.0, 128), (0.001, 256), (0.001, 512), (0.001, 512), (1.0, 128)):
        batches.took(512, 64, seconds)
        assert batches.bounds(SPEED)[0] == most
    batches.took(64, 64, 1.0)
    assert batches.bounds(SPEED)[0] == 128, "within the budget it says nothing"
    batches.took(65, 64, 1.0)
    assert batches.bounds(SPEED)[0] == 32


def test_a_tool_that_was_not_asked_stays_within_its_budget() -> None:
    batches = quick(0)
    batches.saw([b"x"])
    assert batches.bounds(SPEED) == (0, 0.0)


# -- which tools -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tool", "device", "most"),
    [
        (Silent, "cpu", QUICK_TOKENS),
        (Silent, "cuda:0", 0),
        (Counting, "cpu", 0),
        (Sized, "cpu", 0),
        (Bounded, "cpu", 0),
    ],
)
def test_only_what_says_nothing_may_grow_and_only_on_a_cpu(
    tool: type[Tool], device: str, most: int
) -> None:
    assert quick_budget(tool(), device) == most


def test_a_reproducible_run_has_batches_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:  # R5
    for name, value in Mode(is_reproducible=True).variables().items():
        monkeypatch.setenv(name, value)
    assert quick_budget(Silent(), "cpu") == 0


@pytest.mark.parametrize("name", ["tokens", "batch_tokens"])
def test_an_object_may_say_it_too(name: str) -> None:
    tool = Silent()
    setattr(tool, name, lambda *of: 4)
    assert quick_budget(tool, "cpu") == 0


# -- in a run --------------------------------------------------------------------------------
def sizes(world: World, jobs: int = 30, items: int = 10) -> list[int]:
    """Return how large the batches were."""
    for job in range(1, jobs + 1):
        world.submit(job, [f"{job}.{number}" for number in range(items)])
    world.run()
    assert set(world.reports.values()) == {None} and len(world.computed) == jobs * items
    return [len(batch) for batch in world.batches]


def test_batches_grow_once_they_are_known_to_be_quick() -> None:
    found = sizes(World(gpus=0, cpus=1, seconds_per_cost=1e-5, budget_tokens=8, quick_tokens=40))
    assert max(found[:2]) <= 8 and max(found) == 40
    found = sizes(World(gpus=0, cpus=1, seconds_per_cost=1e-5, budget_tokens=8))
    assert max(found) == 8


def test_batches_that_take_time_do_not_grow() -> None:
    found = sizes(World(gpus=0, cpus=1, seconds_per_cost=1e-3, budget_tokens=8, quick_tokens=40))
    assert max(found) == 8


def test_a_large_batch_that_is_not_quick_after_all_has_the_time_of_several() -> None:  # W4
    """The first jobs tell nothing of the later ones."""
    world = World(
        gpus=0,
        cpus=1,
        seconds_per_cost=lambda key: 1.0 if key.startswith("slow") else 1e-5,
        budget_tokens=8,
        quick_tokens=40,
        info={"batch_limit_s": 10.0},
    )
    world.submit(1, [f"quick{number}" for number in range(100)])
    world.submit(2, [f"slow{number}" for number in range(100)])
    world.run()
    assert world.reports == {1: None, 2: None}
    slow = [len(batch) for batch in world.batches if batch[-1].startswith("slow")]
    assert slow[0] == 40 and max(slow[3:]) <= 8, "the first ones, and once that is known"
    assert world.scheduler.dispatch.counts["worker_crashes"] == 0


def test_a_budget_that_an_earlier_run_has_shrunk_is_kept_to() -> None:  # W6
    figures = {"m": Figures(load_s=1.0, s_per_cost=1e-5, fixed_s=0.0, budget_tokens=8)}
    options = {"seconds_per_cost": 1e-5, "budget_tokens": 20, "quick_tokens": 40}
    world = World(gpus=1, cpus=0, figures=figures, **options)  # type: ignore[arg-type]
    assert max(sizes(world)) == 8


def test_workers_share_what_is_quick_all_the_same() -> None:  # P2
    options = {"seconds_per_cost": 1e-5, "budget_tokens": 8, "quick_tokens": 400}
    world = World(gpus=4, cpus=0, load_s=1e-3, start_s=1e-3, **options)  # type: ignore[arg-type]
    assert max(sizes(world)) <= 300 / 2


def test_a_batch_that_memory_was_not_enough_for_ends_the_growth() -> None:  # W6
    world = World(
        gpus=1, cpus=0, seconds_per_cost=1e-5, budget_tokens=8, quick_tokens=40, huge={"big"}
    )
    world.submit(1, [f"a{number}" for number in range(100)])
    world.submit(2, ["big", *(f"b{number}" for number in range(100))])
    world.run()
    assert world.reports[1] is None and "it needs more memory" in str(world.reports[2])
    assert world.scheduler.dispatch.counts["model_loads"] == 2, "also what loads it again"
    (model,) = world.scheduler.dispatch.models.values()
    assert model.has_shrunk and model.budget_tokens is not None
    world.batches.clear()
    world.submit(3, [f"c{number}" for number in range(100)])
    world.run()
    assert world.reports[3] is None
    assert max(map(len, world.batches)) <= model.budget_tokens
