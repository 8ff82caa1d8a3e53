"""How long micro-batches take, fitted in spite of odd ones (P2)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling.models.batch_time import MIN_SAMPLES, WINDOW, Speed, fit


def test_nothing_is_known_before_the_first_batch() -> None:
    speed = Speed()
    assert speed.s_per_cost is None and speed.seconds(3.0) is None
    speed.learn(cost=2.0, seconds=4.0)
    assert (speed.s_per_cost, speed.fixed_s, speed.seconds(3.0)) == (2.0, 0.0, 6.0)


@given(
    st.floats(1e-4, 10),
    st.floats(0, 5),
    st.lists(st.floats(1, 100), min_size=MIN_SAMPLES, max_size=3 * WINDOW),
)
def test_what_follows_the_rule_is_found(
    s_per_cost: float, fixed_s: float, costs: list[float]
) -> None:
    speed = Speed(s_per_cost=1.0)
    for cost in costs:
        speed.learn(cost, fixed_s + s_per_cost * cost)
    latest = costs[-WINDOW:]
    typical = sorted(latest)[len(latest) // 2]
    assert speed.seconds(typical) == pytest.approx(fixed_s + s_per_cost * typical, rel=0.6)
    if max(latest) >= 2 * min(latest) and len(set(latest)) == len(latest):
        assert speed.s_per_cost == pytest.approx(s_per_cost, rel=1e-3, abs=1e-3)
        assert speed.fixed_s == pytest.approx(fixed_s, rel=1e-3, abs=1e-3 + 0.1 * s_per_cost)


def test_a_slow_first_batch_and_a_busy_machine_do_not_spoil_it() -> None:
    chance = random.Random(0)
    speed = Speed()
    for number in range(20):
        cost = chance.uniform(1, 10)
        odd = 50.0 if number in (0, 7, 8, 15) else 0.0
        speed.learn(cost, 0.5 + 0.1 * cost * chance.uniform(0.97, 1.03) + odd)
    assert speed.s_per_cost == pytest.approx(0.1, rel=0.1)
    assert speed.fixed_s == pytest.approx(0.5, rel=0.1)


def test_what_earlier_runs_measured_stands_until_there_is_enough() -> None:
    speed = Speed(s_per_cost=1.0, fixed_s=0.2)
    for _ in range(MIN_SAMPLES - 1):
        speed.learn(1.0, 100.0)
    assert (speed.s_per_cost, speed.fixed_s) == (1.0, 0.2)
    speed.learn(1.0, 100.0)
    assert speed.seconds(1.0) == pytest.approx(100.0)


def test_costs_that_are_alike_leave_the_fixed_part_as_it_was() -> None:
    alike = [(cost, 0.2 + 1.5 * cost) for cost in (1.0, 1.1, 1.2, 1.1, 1.0, 1.3)]
    assert fit(alike, fixed_s=0.2) == (pytest.approx(1.5), 0.2)
    assert fit(alike) == (pytest.approx(1.68, abs=0.02), 0.0)


def test_wrong_costs_do_not_feign_a_fixed_part() -> None:
    chance = random.Random(1)
    true = [chance.uniform(1, 10) for _ in range(WINDOW)]
    told = [cost * 2 ** chance.uniform(-1, 1) for cost in true]
    s_per_cost, fixed_s = fit(list(zip(told, true, strict=True)))
    assert fixed_s == 0.0 and 0.7 < s_per_cost < 1.4


def test_batches_that_take_no_time_or_cost_nothing_are_no_trouble() -> None:
    speed = Speed()
    speed.learn(0.0, 1.0)
    assert speed.s_per_cost is None
    for cost in (1.0, 2.0, 3.0, 4.0, 5.0):
        speed.learn(cost, 0.0, items=4)
    assert (speed.s_per_cost, speed.fixed_s) == (0.0, 0.0)
    assert speed.batches_of(0) == speed.batches_of(1) == 1.0
    assert speed.batches_of(70) == pytest.approx(20.0)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, WINDOW + 20)))
def test_to_look_changes_nothing(looks: set[int]) -> None:
    # Different ones show the fixed part, and have left the window when the alike ones come.
    costs = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0] + [2.0] * (WINDOW + 10)
    looked_at, left_alone = Speed(), Speed()
    for number, cost in enumerate(costs):
        looked_at.learn(cost, 2.0 + cost)
        left_alone.learn(cost, 2.0 + cost)
        if number in looks:
            looked_at.seconds(1.0)
    assert left_alone.fixed_s == pytest.approx(2.0)
    assert (looked_at.s_per_cost, looked_at.fixed_s) == (left_alone.s_per_cost, left_alone.fixed_s)
