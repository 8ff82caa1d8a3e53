"""By default an item is a duplicate of one with the same content, and of no other (T5, C2)."""

from __future__ import annotations

import enum
import hashlib
import sys
import types
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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


class Rounded(float):
    """A number that shows less than it is."""

    def __repr__(self) -> str:
        return f"{float(self):.1f}"


class Slotted(list):  # type: ignore[type-arg]
    __slots__ = ("__hidden", "note")

    def __init__(self, values: Any, note: str, hidden: str = "") -> None:
        super().__init__(values)
        self.note, self.__hidden = note, hidden


@dataclass
class Sample:
    """What can be opened by itself, and is more than a path."""

    path: str
    label: str

    def __fspath__(self) -> str:
        return self.path


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def of_module(name: str, base: type = tuple, value: Any = (1, 2)) -> Any:
    """An object of a class that a module of that name has."""
    kind = type("Version", (base,), {"__module__": name})
    sys.modules.setdefault(name, types.ModuleType(name)).__dict__["Version"] = kind
    return kind(value)


def matrix() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asmatrix(np.ones((2, 2)))


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
    "shown alike": (Rounded(1.01), Rounded(1.02)),
    "in a slot": (Slotted("ab", "x"), Slotted("ab", "y")),
    "in a hidden slot": (Slotted("ab", "x", "y"), Slotted("ab", "x", "z")),
    "with one path": (Sample("a.txt", "x"), Sample("a.txt", "y")),
    "a path and one without files": (Path("a"), PurePosixPath("a")),
    "of two modules": (of_module("first"), of_module("second")),
    "what is missing": (defaultdict(int, a=1), defaultdict(list, a=1)),
    "an array and a matrix": (np.ones((2, 2)), matrix()),
    "a number and an array of one": (np.float32(1), np.array(1, np.float32)),
    "summed up in another order": (np.ones((2, 3)), np.asfortranarray(np.ones((2, 3)))),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_a_tool_can_tell_apart_is_no_duplicate(name: str) -> None:  # T5 C2
    first, second = DIFFERENT[name]
    assert content_hash(first) != content_hash(second)


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_tensors_count_with_their_class_scale_and_layout() -> None:  # T5 C2
    torch = pytest.importorskip("torch")
    ones = torch.ones(2, 3, 4, 5)
    scaled = [torch.quantize_per_tensor(ones * n, 0.1 * n, 0, torch.quint8) for n in (1, 2)]
    assert (scaled[0].int_repr() == scaled[1].int_repr()).all()
    assert content_hash(scaled[0]) != content_hash(scaled[1])
    assert content_hash(ones) == content_hash(ones.clone())
    assert content_hash(ones) != content_hash(ones.to(memory_format=torch.channels_last))
    assert content_hash(ones) != content_hash(torch.nn.Parameter(ones, requires_grad=False))


@pytest.mark.parametrize("base", [tuple, Plain, Entry])
@pytest.mark.parametrize("inside", [lambda value: value, lambda value: pd.Series([value])])
def test_a_class_of_a_tools_file_counts_the_same_wherever_that_is_loaded(  # R8
    base: type, inside: Any
) -> None:
    """Its module is ``__main__`` as a script, and has another name for each place."""
    made = [of_module(f"gpupool_tool_{n}", base, (1, 2)) for n in range(2)]
    first, second = (content_hash(inside(value)) for value in made)
    assert first == second != content_hash(inside(of_module("gpupool_tool_0", base, (1, 3))))


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
