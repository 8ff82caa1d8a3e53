"""What counts as the same result (R5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from snakemake_executor_gpupool.frontends.commandline.check.compare import Comparison, is_finite


def same(one: object, other: object, tolerance: float = 1e-4) -> bool:
    return Comparison(tolerance).same(one, other)


def test_numbers_are_compared_within_a_tolerance() -> None:
    array = np.array([1.0, float("nan"), 1e6, float("inf")])
    assert same(array, array * (1 + 1e-6))
    assert not same(array, array * (1 + 1e-3))
    assert not same(array, array.astype("float32"))
    assert not same(np.array([float("inf")]), np.array([1.0]))
    assert not same(float("inf"), 1.0)
    assert same((1, "x", None), (1, "x", None))
    assert same((1.0, "x"), (1.00001, "x"))
    assert not same("x", "y", 1.0)


def test_integers_and_truths_are_equal_or_not() -> None:
    assert not same(100_000, 100_001)
    assert not same(np.array([100_000]), np.array([100_001]))
    assert not same(True, 1)
    assert same(1, 1.0)


def test_small_numbers_are_compared_by_the_scale_of_all_results() -> None:
    assert same(2e-6, 3e-6), "without a scale, 1 is the scale"
    assert not Comparison(1e-4, [2e-6, 5e-6]).same(2e-6, 3e-6)
    assert Comparison(1e-4, [2e-6, 0.5]).same(2e-6, 3e-6), "small by cancellation"
    by_name = Comparison(1e-4, [{"score": 10.0, "p": [1e-7, 3e-7]}])
    assert not by_name.same({"score": 10.0, "p": [1e-7, 3e-7]}, {"score": 10.0, "p": [1e-7, 2e-7]})
    arrays = Comparison(1e-4, [np.array([1e-8, 2e-8])])
    assert not arrays.same(np.array([1e-8, 2e-8]), np.array([1e-8, 1e-8]))


def test_containers_tensors_and_objects() -> None:
    @dataclass
    class Scores:
        values: list[float]

    class Plain:
        def __init__(self, value: float) -> None:
            self.value = value

    ones = torch.ones(2, dtype=torch.bfloat16)
    assert same({"a": [ones]}, {"a": [ones.clone()]}, 0)
    assert not same({"a": [torch.ones(2)]}, {"a": [torch.ones(3)]}, 1)
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1}, 1)
    assert same(Scores([1.0]), Scores([1.00001]))
    assert not same(Scores([1.0]), Scores([2.0]))
    assert same(Plain(1.0), Plain(1.00001))
    assert not same(Plain(1.0), Plain(2.0))


def test_tables() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.0, 2.0]})
    assert same(table, table + 1e-6)
    assert not same(table, table + 1)


def test_what_is_not_finite_is_found_inside() -> None:
    assert is_finite({"a": [1.0, np.ones(2)], "b": "nan"})
    assert not is_finite({"a": [np.array([1.0, np.nan])]})
    assert not is_finite((float("inf"),))
