"""Payloads: what goes in comes out, and large arrays are not copied through a pickle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile
from snakemake_executor_gpupool.wire.payload import (
    MAGIC,
    load_bytes,
    load_payload,
    load_places,
    pack,
)
from snakemake_executor_gpupool.wire.spool import Spool

LARGE = np.arange(SPOOL_BYTES, dtype=np.float32)
VALUES = {
    "text": "MKTAYIAKQR",
    "small array": np.arange(5),
    "large array": LARGE,
    "several, odd sizes": {"a": LARGE[:-1].astype(np.float64), "b": [LARGE, "x"], "c": LARGE > 3},
    "not contiguous": LARGE.reshape(-1, 2)[:, 0],
    "fortran order": np.asfortranarray(LARGE.reshape(-1, 4)),
    "large text": "x" * (2 * SPOOL_BYTES),
}


def save(value: object, spool: Spool) -> Blob:
    return spool.put(pack(value))


def same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return all(map(same, one, other))
    return bool(np.array_equal(one, other))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VALUES)
def test_what_goes_in_comes_out(tmp_path: Path, name: str) -> None:  # W2
    value = VALUES[name]
    assert same(load_payload(save(value, Spool([str(tmp_path)]))), value)
    assert same(load_payload(save(value, Spool([]))), value), "in memory, too"


def test_a_large_array_lies_beside_its_pickle(tmp_path: Path) -> None:  # W2
    parts = pack({"array": LARGE})
    assert parts[0].startswith(MAGIC)
    assert any(getattr(part, "obj", None) is LARGE for part in parts), "not a copy of it"
    blob = save({"array": LARGE}, Spool([str(tmp_path)]))
    assert isinstance(blob, SpoolFile) and blob.size_bytes == Path(blob.path).stat().st_size


def test_an_array_can_be_changed_and_nobody_else_sees_it(tmp_path: Path) -> None:
    blob = save(LARGE, Spool([str(tmp_path)]))
    mine, other = load_payload(blob), load_payload(blob)
    Path(blob.path).unlink()  # type: ignore[union-attr]
    mine[:] = -1
    assert same(other, LARGE)


@pytest.mark.parametrize("cut", [9, 20, 100, SPOOL_BYTES])
def test_a_payload_cut_short_is_an_error(cut: int) -> None:
    whole = b"".join(pack(LARGE))
    with pytest.raises(Exception, match=r".+"):
        load_bytes(whole[:cut])


@pytest.mark.parametrize("directories", [True, False])
def test_every_place_gets_a_value_of_its_own(tmp_path: Path, directories: bool) -> None:
    spool = Spool([str(tmp_path)] if directories else [])
    blobs = [save(value, spool) for value in ({"a": [LARGE]}, {"a": [np.arange(3.0)]}, {"a": []})]
    order = [1, 0, 1, 2, 0, 2]
    values = load_places(blobs, order)
    for value, place in zip(values, order, strict=True):
        assert same(value, load_payload(blobs[place])), "unchanged by the places before"
        for array in value["a"]:
            array[:] = -1
        value["a"].append("mine")
    assert load_places([], []) == []


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    """A worker names the files of its results, and may have made anything there (W5)."""
    path = tmp_path / "1.blob"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "other").write_bytes(pack("x")[0])
        path.symlink_to(tmp_path / "other")
    else:
        path.mkdir()
    for size_bytes in (10, SPOOL_BYTES + 1):
        with pytest.raises(OSError, match=r"1\.blob"):
            load_payload(SpoolFile(str(path), size_bytes))
