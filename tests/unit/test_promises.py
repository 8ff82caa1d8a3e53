"""The planner's promises, with a few fixed seeds; ``bench/planning.py`` tries many."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing import promises

DEVICES = 8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("items", [100, 300])
def test_a_heavy_tail_is_balanced_even_if_the_costs_are_wrong(seed: int, items: int) -> None:
    # P2 P3
    rng = random.Random(seed)
    costs = promises.heavy_tail(rng, items)
    told = promises.mistaken(rng, costs)
    least_s = promises.least_makespan(costs, DEVICES)
    assert promises.served(costs, costs, DEVICES) <= 1.02 * least_s
    assert promises.served(costs, told, DEVICES) <= 1.06 * least_s


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.2, 5.0), min_size=1, max_size=16),
    st.integers(1, DEVICES),
    st.floats(0, 100),
)
def test_never_worse_than_the_best_fixed_number_of_workers(
    costs: list[float], devices: int, load_s: float
) -> None:  # P4
    known = Figures(load_s=load_s, s_per_cost=1.0)
    reached_s, loads = promises.with_loads(costs, load_s, devices, known)
    assert reached_s <= 1.05 * promises.best_fixed_number(costs, load_s, devices)
    assert loads <= min(devices, len(costs))


def test_what_was_measured_makes_the_second_run_quicker() -> None:  # P2 P4
    first_s, second_s = promises.two_runs(items=20, load_s=5.0, devices=DEVICES)
    assert second_s <= 0.75 * first_s
