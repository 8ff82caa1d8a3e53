"""By default an item is a duplicate of one with the same content, and of no other (T5, C2)."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from snakemake_executor_gpupool.tool_api.content_hash import _feed, content_hash
from snakemake_executor_gpupool.worker.named_files import ITEM, contents_of


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


class Noted(list):  # type: ignore[type-arg]
    def __init__(self, values: Any, note: str) -> None:
        super().__init__(values)
        self.note = note


class WorkItem(np.ndarray):  # type: ignore[type-arg]
    """An array with something beside its numbers, as those of astropy and pint."""

    unit = ""

    def __reduce__(self) -> Any:
        return (in_unit, (np.asarray(self), self.unit))


def in_unit(values: Any, unit: str) -> Any:
    array = np.asarray(values).view(WorkItem)
    array.unit = unit
    return array


class Letter(str, enum.Enum):  # noqa: UP042 - as tools for older Pythons write it
    A = "a"


@dataclass
class Entry:
    value: int


def entry(value: int, more: int) -> Entry:
    made = Entry(value)
    made.__dict__["more"] = more
    return made


masked = np.ma.MaskedArray
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "hidden by a mask": (masked([1, 2], mask=[0, 1]), masked([1, 999999], mask=[0, 0])),
    "in another unit": (in_unit([1.0], "m"), in_unit([1.0], "km")),
    "in another order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "with another attribute": (Noted("ab", "x"), Noted("ab", "y")),
    "with an attribute that is no field": (entry(1, 2), entry(1, 3)),
    "a member and its value": (Letter.A, "a"),
    "entries of a list": ([["a"], "b"], [["a", "b"]]),
    "true and one": (True, 1),
    "one and one": (1, 1.0),
    "columns": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "arrays of objects": (objects("a", 1), objects("a", 2)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_a_tool_can_tell_apart_is_no_duplicate(name: str) -> None:  # T5 C2
    first, second = DIFFERENT[name]
    assert content_hash(first) != content_hash(second)


def test_an_array_of_objects_counts_by_what_they_are() -> None:  # T5 C2
    entry, same = ["one"], ["one"]
    before = content_hash(objects(entry, "x" * 3))
    assert before == content_hash(objects(same, "xx" + "x"))
    entry[0] = "two"  # at the same address
    assert content_hash(objects(entry, "xxx")) != before


@pytest.mark.parametrize("made", [np.array, objects, pd.Series, lambda v: pd.DataFrame({"p": v})])
def test_paths_in_arrays_and_tables_count_with_their_files(  # C2
    tmp_path: Path, made: Any
) -> None:
    path = tmp_path / "a.txt"
    item = made([str(path)])
    path.write_text("one")
    before = contents_of(item, ITEM)
    path.write_text("two")
    assert before and contents_of(item, ITEM) != before


@pytest.mark.parametrize("text", ["", "MKV", "\u00e4\U0001f600", "\ud83d", "3:0:", "x" * 100_000])
def test_a_text_has_the_same_hash_by_itself_as_by_its_parts(text: str) -> None:
    """Kept results of earlier versions are found by it."""
    digest = hashlib.sha256()
    _feed(digest.update, text)
    assert content_hash(text) == digest.hexdigest()
    assert content_hash(text) != content_hash(text.encode("utf-8", "surrogatepass"))


def test_the_hash_of_a_text_is_that_of_earlier_versions() -> None:
    known = "41458137220055c9b9797b32d4ab02ac"
    assert content_hash("MKTAYIAKQR").startswith(known)
