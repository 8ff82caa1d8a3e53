"""What read() and run() may return: taken for what it is, or refused in one sentence (C3)."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from snakemake_executor_gpupool.errors import ContractError, InputError
from snakemake_executor_gpupool.tool_api.contract import copied, items_of, results_of

Pair = collections.namedtuple("Pair", "hidden pooled")


class Table:
    """What is known of a table of pandas' or polars'."""

    columns = property(lambda self: ["a", "b"])
    shape = property(lambda self: (3, 2))

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Reading:
    """A tool whose read() returns what it is told to."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def read(self, job: object) -> Any:
        return self.found


async def never() -> None:
    """What an async def returns before anybody waits for it."""


#: What is no list of anything, and what a message has to say of it.
REFUSED = {
    "None": (lambda: None, "returned None", "lack a return or a yield"),
    "text": (lambda: "MKV", "one text, whose letters", "splitlines()"),
    "bytes": (lambda: b"MKV", "whose bytes", "splitlines()"),
    "dict": (lambda: {"a": 1, "b": 2}, "a dict, whose keys alone", "list(d.values())"),
    "ordered": (lambda: collections.OrderedDict(a=1, b=2), "whose keys alone", "d.items()"),
    "set": (lambda: {1, 2}, "a set, which has no order", "Return sorted("),
    "frozenset": (lambda: frozenset((1, 2)), "which has no order", "Return sorted("),
    "table": (Table, "a Table, the names of whose columns", "itertuples"),
    "file": (lambda: io.StringIO("a\nb\n"), "an open file", "file.read().splitlines()"),
    "scalar": (lambda: 0.5, "a float", "a list, also of a single one"),
    "array without axis": (lambda: np.array(3.0), "a ndarray without any axis", "each"),
    "function": (lambda: "".splitlines, "the function splitlines, which was not called", "()"),
    "coroutine": (never, "a coroutine", "without async"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_list_is_refused_by_name(kind: str) -> None:
    make, what, instead = REFUSED[kind]
    for act, method in (
        (lambda: list(items_of(Reading(make()), None)), "Reading.read() returned"),
        (lambda: results_of(Reading(None), make(), 2), "Reading.run() got 2 items and returned"),
    ):
        with pytest.raises(ContractError) as refused:
            act()
        assert isinstance(refused.value, InputError) and isinstance(refused.value, TypeError)
        for words in (method, what, instead):
            assert words in str(refused.value)


@pytest.mark.parametrize(
    "found",
    [
        ["a", "b"],
        ("a", "b"),
        iter(["a", "b"]),
        (letter for letter in "ab"),
        {"a": 1, "b": 2}.keys(),
        {1: "a", 2: "b"}.values(),
        np.array(["a", "b"]),
    ],
)
def test_what_has_an_order_is_taken(found: Any) -> None:
    if not isinstance(found, collections.abc.Iterator):
        assert results_of(Reading(None), found, 2) == ["a", "b"]
    assert list(items_of(Reading(found), None)) == ["a", "b"]


def test_items_are_read_as_they_come() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    assert next(iter(items_of(Reading(endless()), None))) == 0


def test_an_array_is_taken_along_its_first_axis() -> None:
    rows = results_of(Reading(None), np.arange(6.0).reshape(2, 3), 2)
    assert [row.tolist() for row in rows] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ContractError, match=r"shape \(3, 2\).*here axis 1 is as long as the items"):
        results_of(Reading(None), np.zeros((3, 2)), 2)
    with pytest.raises(ContractError, match=r"shape \(7,\)"):
        results_of(Reading(None), np.zeros(7), 2)


def test_a_row_of_a_tensor_travels_without_the_others() -> None:
    torch = pytest.importorskip("torch")
    whole = torch.ones(2, 1000, requires_grad=True) * 2
    for rows in (results_of(Reading(None), whole, 2), list(items_of(Reading(whole), None))):
        assert [row.untyped_storage().nbytes() for row in rows] == [4000, 4000]
        assert not rows[0].requires_grad


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3], (1,), iter([1]), iter(range(10**9))])
def test_another_number_of_results_is_refused(results: Any) -> None:
    with pytest.raises(ContractError, match="must return a list of one result per item"):
        results_of(Reading(None), results, 2)


def test_several_values_returned_together_are_not_taken_for_results() -> None:
    hidden, pooled = np.zeros((2, 3)), np.zeros((2, 1))
    with pytest.raises(ContractError, match="may be meant in two ways"):
        results_of(Reading(None), (hidden, pooled), 2)
    with pytest.raises(ContractError, match="a Pair of hidden, pooled"):
        results_of(Reading(None), Pair(hidden, pooled), 2)
    assert len(results_of(Reading(None), [hidden, pooled], 2)) == 2
    assert len(results_of(Reading(None), (np.zeros(5), np.zeros(7)), 2)) == 2


def test_a_generator_that_writes_into_one_buffer_gives_several_results() -> None:
    def generate() -> Iterator[Any]:
        buffer, places = np.zeros(1), [0]
        for number in range(3):
            buffer[0] = places[0] = number
            yield buffer, places

    for results in (results_of(Reading(None), generate(), 3), list(copied(generate()))):
        assert [(float(array[0]), places) for array, places in results] == [
            (0.0, [0]),
            (1.0, [1]),
            (2.0, [2]),
        ]
