"""What the key of an item holds of the files that it names (C2)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker import named_files
from snakemake_executor_gpupool.worker.describe import describe_item
from snakemake_executor_gpupool.worker.loaded import for_files
from tests.unit.file_edits import replace, write


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Paths(Tool):
    pass


class UpperPaths(Tool):
    def key(self, item: Any) -> str:
        return item.path.lower()


class KeyedPaths(Tool):
    """Its key is no text, and names a file."""

    def key(self, item: Any) -> Any:
        return item


class Bare(NamedTuple):
    path: str


@dataclass
class Record:
    name: str
    path: Any


class Plain:
    def __init__(self, path: Any) -> None:
        self.path = path


class Slotted:
    __slots__ = ("path",)

    def __init__(self, path: Any) -> None:
        self.path = path


def key_of(item: Any, kind: type[Tool] = Paths) -> str:
    return describe_item(for_files(kind, {}), item, 0).key


ITEMS: dict[str, Callable[[], Any]] = {
    "text": lambda: "a.txt",
    "in a directory": lambda: "dir/a.txt",
    "absolute": lambda: str(Path("a.txt").absolute()),
    "from here": lambda: "./dir/../a.txt",
    "bytes": lambda: b"a.txt",
    "Path": lambda: Path("a.txt"),
    "tuple": lambda: ("s1", "a.txt"),
    "list": lambda: [["a.txt"]],
    "dict": lambda: {"path": Path("a.txt")},
    "dict key": lambda: {"a.txt": 1},
    "set": lambda: {"b", "a.txt"},
    "named tuple": lambda: Bare("a.txt"),
    "dataclass": lambda: Record("s1", "a.txt"),
    "object": lambda: Plain(["a.txt"]),
    "slots": lambda: Slotted("a.txt"),
    "directory": lambda: "dir",
    "array of texts": lambda: np.array(["b", "a.txt"]),
    "array of objects": lambda: np.array([Path("a.txt"), None]),
    "table": lambda: pd.DataFrame({"path": ["a.txt"]}),
}


@pytest.mark.parametrize("make", ITEMS.values(), ids=ITEMS)
def test_an_item_that_names_a_file_counts_by_its_content(make: Any) -> None:  # C2
    write({"a.txt": "aaaa", "dir/a.txt": "aaaa"})
    first = key_of(make())
    assert key_of(make()) == first
    for path in ("a.txt", "dir/a.txt"):
        replace(path, "bbbb")
    assert key_of(make()) != first


def test_arrays_of_objects_count_by_what_is_in_them() -> None:
    """Their bytes are addresses, which the next array may have again."""
    keys = {key_of(np.array([f"{n}"] * 2, dtype=object)) for n in range(200)}
    assert len(keys) == 200
    assert key_of(np.array(["".join(["x", "y"])], dtype=object)) == key_of(
        np.array(["".join(["x", "y"])], dtype=object)
    )


def test_a_key_that_is_a_path_counts_by_its_content() -> None:
    write({"a.txt": "aaaa"})
    item = Record("s1", "A.TXT")
    first = key_of(item, UpperPaths)
    replace("a.txt", "bbbb")
    assert key_of(item, UpperPaths) != first


def test_a_key_of_ones_own_that_is_no_path_counts_alone() -> None:
    class Own(Tool):
        def key(self, item: Any) -> str:
            return f"{item[0]}"

    write({"a.txt": "aaaa"})
    first = key_of(("seq", "a.txt"), Own)
    replace("a.txt", "bbbb")
    assert key_of(("seq", "a.txt"), Own) == first == "seq"


def test_settled_files_and_directories_are_seen_to_change() -> None:
    """What is remembered of files and listings is dropped when they change."""
    write({"a.txt": "aaaa"})
    for path in ("a.txt", "."):
        os.utime(path, (1_000_000, 1_000_000))
    first, word = key_of("a.txt"), key_of("new")
    assert key_of("a.txt") == first
    write({"a.txt": "bbbb", "new": "x"})
    os.utime("a.txt", (1_000_000, 1_000_000))
    assert key_of("a.txt") != first
    assert key_of("new") != word


def test_words_that_are_no_files_are_keys_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(".", (1_000_000, 1_000_000))
    looked: list[Any] = []
    monkeypatch.setattr(named_files, "_content", lambda path, bounds: looked.append(path) or "")
    for item in (
        "MKTAYIAK",
        np.zeros(3),
        [1, 2.5, None],
        "a sentence, and/or two.",
        "x" * 5000,
        "a\nb",
        "",
        ".",
        "..",
        "/",
    ):
        key_of(item)
    assert looked == []


def test_a_directory_that_is_too_large_is_computed_for_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write({f"many/{n}": "" for n in range(5)})
    same = key_of("many")
    monkeypatch.setattr(named_files, "ITEM", named_files.Bounds(3, 1e9, beyond=None))
    monkeypatch.setattr("snakemake_executor_gpupool.worker.describe.ITEM", named_files.ITEM)
    assert key_of("many") != key_of("many") != same


def test_texts_of_plain_containers_are_found_as_in_any_other_value() -> None:
    write({"a": "", "b": "", "c/d": ""})
    shared = ["a", "nowhere"]
    values: list[Any] = [
        {"a": 1, "x": "b", 3: ("c/d", None, True)},
        [shared, shared, {"k": shared}, "a", "a"],
        ("b", [["a"], {"c": {"c/d": 1.5}}]),
        {"": "", "./": "a\n", "y": "x" * 5000, "b": 2j},
        [],
        "a",
    ]
    for value in values:
        quick = list(named_files._paths_in(value))
        assert quick == list(named_files._paths_among(value, set())), value
    for value in ([b"a", "b"], {"k": {Path("a")}}, ["a", {"a": Path("b")}]):
        assert list(named_files._paths_in(value)) == list(named_files._paths_among(value, set()))
        assert list(named_files._paths_in(value))


def test_what_is_no_file_or_is_gone_does_no_harm() -> None:
    os.mkfifo("pipe")
    write({"gone": ""})
    Path("dangling").symlink_to("nowhere")
    assert key_of("pipe") == key_of("pipe") and key_of("dangling") == key_of("dangling")
    shutil.rmtree("gone", ignore_errors=True)
    for odd in ("/\ud800", Path("a\0b"), Path("x" * 5000), b"/\xff\xfe"):
        assert named_files.contents_of(odd, named_files.ITEM) == []
    circle: list[Any] = ["a"]
    circle.append(circle)
    assert list(named_files._paths_in(circle)) == []


def test_names_of_any_length_and_links_count_by_their_files() -> None:  # C2
    """Also in a directory that has changed just now, which is not listed once for all."""
    longest, nowhere, elsewhere = "n" * 255, "nowhere", "elsewhere"
    Path(nowhere).symlink_to("later.txt")
    before = key_of(longest), key_of(nowhere), key_of("n" * 256)
    write({longest: "aaaa", "later.txt": "aaaa"})
    Path(elsewhere).symlink_to("later.txt")
    after = key_of(longest), key_of(nowhere), key_of("n" * 256)
    assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]
    first = key_of(elsewhere)
    write({"later.txt": "bbbb"})
    assert key_of(elsewhere) != first


@pytest.mark.parametrize("key_for", [lambda path: ("v1", path), str.encode, lambda path: [path]])
def test_a_key_that_is_no_text_covers_the_files_that_it_names(
    key_for: Callable[[str], Any],
) -> None:
    write({"a.fa": "one"})
    before = key_of(key_for("a.fa"), KeyedPaths)
    assert key_of(key_for("a.fa"), KeyedPaths) == before
    replace("a.fa", "two")
    assert key_of(key_for("a.fa"), KeyedPaths) != before


def test_keys_of_different_kinds_are_different_keys() -> None:
    kinds = [b"\xab", "ab", ("ab",), ["ab"], 171, "171", 171.0, b"", ""]
    assert len({key_of(key, KeyedPaths) for key in kinds}) == len(kinds)
