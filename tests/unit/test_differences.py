"""By how much two files differ."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.worker.differences import difference

TOLERANCE = Tolerance(1e-6, 1e-4)
NUMBERS = [1.5, -20.0, 0.25]


def npy(path: Path, numbers: list[float]) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(numbers, dtype=np.float32))


def npz(path: Path, numbers: list[float]) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.array(["a"]), x=np.array([numbers]))


def parquet(path: Path, numbers: list[float]) -> None:
    pd.DataFrame({"id": ["a", "b", "c"], "x": numbers}).to_parquet(path)


def lists(path: Path, numbers: list[float]) -> None:
    pd.DataFrame({"id": ["a"], "x": [np.array(numbers, dtype=np.float32)]}).to_parquet(path)


def table(path: Path, numbers: list[float]) -> None:
    path.write_text("id\tx\n" + "".join(f"p{n}\t{x:.6f}\n" for n, x in enumerate(numbers)))


def packed(path: Path, numbers: list[float]) -> None:
    path.write_bytes(gzip.compress("".join(f"{x:.8e}\n" for x in numbers).encode()))


def as_json(path: Path, numbers: list[float]) -> None:
    path.write_text(json.dumps({"n": 3, "x": numbers}))


def structure(path: Path, numbers: list[float]) -> None:
    x, y, z = numbers
    path.write_text(f"ATOM      1  CA  MET A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 90.00\nEND\n")


KINDS: dict[str, tuple[str, Callable[[Path, list[float]], None]]] = {
    "npy": (".npy", npy),
    "npz": (".npz", npz),
    "parquet": (".parquet", parquet),
    "lists in parquet": (".parquet", lists),
    "table": (".tsv", table),
    "gzip": (".csv.gz", packed),
    "json": (".json", as_json),
    "structure": (".pdb", structure),
}


@pytest.mark.parametrize(("suffix", "make"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("relative", "kind"), [(0.0, "bits"), (4e-5, "within"), (2e-3, "beyond")], ids=str
)
def test_numbers_are_compared_within_the_tolerance(
    tmp_path: Path, suffix: str, make: Any, relative: float, kind: str
) -> None:
    one, other = (tmp_path / f"{name}{suffix}" for name in ("one", "other"))
    make(one, NUMBERS)
    make(other, [NUMBERS[0], NUMBERS[1] * (1 + relative), NUMBERS[2]])
    found = difference(str(one), str(other), TOLERANCE)
    assert found.kind == kind, found
    assert found.largest == pytest.approx(20 * relative, rel=0.26)
    if relative:
        assert difference(str(one), str(other), None).kind == "beyond"
        assert difference(str(one), str(other), Tolerance()).kind in ("beyond", "within")


@pytest.mark.parametrize(("suffix", "make"), KINDS.values(), ids=KINDS)
def test_a_small_number_is_not_lost_beside_large_ones_of_other_places(
    tmp_path: Path, suffix: str, make: Any
) -> None:
    one, other = (tmp_path / f"{name}{suffix}" for name in ("one", "other"))
    make(one, NUMBERS)
    make(other, [NUMBERS[0], NUMBERS[1], 0.5])
    assert difference(str(one), str(other), TOLERANCE).kind == "beyond"


@pytest.mark.parametrize(
    ("name", "one", "other", "where"),
    [
        ("a.txt", "a 1.5\n", "b 1.5\n", "line 1"),
        ("a.txt", "a 1\n", "a 2\n", "line 1"),
        ("a.txt", "1.5\n", "1.5\n2.5\n", "1 and 2 lines"),
        ("a.txt", "1.5\nx\n", "nan\nx\n", "line 1"),
        ("a.txt", "x 1.5 2.5", "x 1.5", "line 1"),
        ("a.bin", "\udcff1", "\udcff2", "bytes"),
        ("a.npy", "no array", "none", "bytes"),
        ("a.parquet", "no table", "none", "bytes"),
    ],
)
def test_what_is_no_number_has_to_be_equal(
    tmp_path: Path, name: str, one: str, other: str, where: str
) -> None:
    paths = [tmp_path / side / name for side in ("one", "other")]
    for path, text in zip(paths, (one, other), strict=True):
        path.parent.mkdir()
        path.write_text(text, errors="surrogateescape")
    found = difference(*map(str, paths), TOLERANCE)
    assert (found.kind, found.where) == ("other", where)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (np.zeros(3), np.zeros(4), "other"),
        (np.zeros(3), np.zeros(3, dtype=np.float32), "other"),
        (np.arange(3), np.array([0, 1, 3]), "other"),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.00001]), "within"),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), "other"),
        (np.array([np.inf]), np.array([-np.inf]), "other"),
        (np.array(["a"]), np.array(["b"]), "other"),
        (np.array([0.0]), np.array([-0.0]), "values"),
    ],
    ids=str,
)
def test_arrays(tmp_path: Path, one: Any, other: Any, kind: str) -> None:
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "other.npy", other)
    paths = str(tmp_path / "one.npy"), str(tmp_path / "other.npy")
    assert difference(*paths, TOLERANCE).kind == kind


def test_the_same_arrays_in_other_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.ones(3))
    np.savez_compressed(tmp_path / "other.npz", x=np.ones(3))
    found = difference(str(tmp_path / "one.npz"), str(tmp_path / "other.npz"), Tolerance())
    assert found.kind == "values" and found.agrees


def test_in_a_text_numbers_are_rounded(tmp_path: Path) -> None:
    """1.2345 and 1.2346 may be a hair apart; 1.2345 and 1.2347 are not."""
    for name, text in (("a", "x 1.2345\n"), ("b", "x 1.2346\n"), ("c", "x 1.2347\n")):
        (tmp_path / name).write_text(text)
    a, b, c = (str(tmp_path / name) for name in "abc")
    tolerance = Tolerance(0.0, 1e-9)
    assert difference(a, b, tolerance).kind == "within"
    assert difference(a, c, tolerance).kind == "beyond"
    assert difference(a, b, Tolerance()).kind == "beyond", "exact tools write exactly the same"


def test_directories_are_compared_file_by_file(tmp_path: Path) -> None:
    for side, number in (("one", "1.52"), ("other", "1.57")):
        (tmp_path / side / "deep").mkdir(parents=True)
        (tmp_path / side / "deep" / "a.txt").write_text(number)
        (tmp_path / side / "b.txt").write_text("same")
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    found = difference(one, other, TOLERANCE)
    assert found.kind == "beyond" and found.where == "deep/a.txt: line 1"
    assert difference(one, one, TOLERANCE).kind == "bits"
    (tmp_path / "other" / "c.txt").write_text("")
    assert difference(one, other, TOLERANCE).where == "the names of files"
    assert difference(one, str(tmp_path / "one" / "b.txt"), TOLERANCE).kind == "other"


def test_many_numbers_in_a_line_are_an_array(tmp_path: Path) -> None:
    """One that is nearly zero is as far off as its neighbours."""
    for name, number in (("a", "1.00e-9"), ("b", "2.00e-5")):
        (tmp_path / name).write_text(f"[{', '.join(['1.5'] * 8)}, {number}]")
    a, b = (str(tmp_path / name) for name in "ab")
    assert difference(a, b, Tolerance(0.0, 1e-4)).kind == "within"
    assert difference(a, b, Tolerance(0.0, 1e-6)).kind == "beyond"
