"""The file of provenance: killed anywhere, written to by several at once, bounded (R4)."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.provenance import store as store_module
from snakemake_executor_gpupool.records.provenance.reader import NoProvenance, ProvenanceReader
from snakemake_executor_gpupool.records.provenance.store import ProvenanceStore, line_of


def record(number: int, **more: Any) -> dict[str, Any]:
    outputs = [{"output": f"out/{number}.npy", "sha256": f"{number:064x}"}]
    return {"id": f"run/job/{number}", "record": "job", "outputs": outputs, **more}


def written(path: Path, *records: dict[str, Any]) -> bytes:
    store = ProvenanceStore(path)
    for each in records:
        store.append(each)
    store.close()
    assert store.error is None
    return path.read_bytes()


def ids(path: Path) -> list[str]:
    with ProvenanceReader(path) as reader:
        return [each["id"] for each in reader]


def test_killed_at_any_byte_the_rest_stays_readable_and_is_healed(tmp_path: Path) -> None:
    path = tmp_path / "p"
    first = written(path, record(1))
    whole = written(path, record(2, name="ä\n{}"))
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        # Its end of line alone may be missing.
        there = ["run/job/1"] + ["run/job/2"] * (cut == len(whole) - 1)
        assert ids(path) == there
        written(path, record(3))
        assert ids(path) == [*there, "run/job/3"], cut
        with ProvenanceReader(path) as reader:
            assert reader.by_id("run/job/3") == record(3)
            assert (reader.by_id("run/job/2") is None) == (len(there) == 1)


def append_many(path: Path, start: int) -> None:
    store = ProvenanceStore(path)
    for number in range(start, start + 300):
        store.append(record(number, filler="x" * (number % 2000)))
        if number % 3 == 0:
            store.flush()
    store.close()


def test_two_runs_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, n * 1000)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    numbers = sorted(int(ident.rpartition("/")[2]) for ident in ids(path))
    assert numbers == [n * 1000 + k for n in range(3) for k in range(300)]


def test_the_newest_record_of_a_path_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "p"
    again = {**record(1), "id": "later/job/7"}
    written(path, record(1), record(2), record(11), again)
    with ProvenanceReader(path) as reader:
        found = [job["id"] for _, job in reader.outputs_at("out/1.npy")]
        assert found == ["later/job/7", "run/job/1"]
        by_content = [job["id"] for _, job in reader.outputs_with(f"{2:064x}")]
        assert by_content == ["run/job/2"]
        assert list(reader.outputs_at("out/3.npy")) == []


def test_an_input_of_that_name_is_no_output(tmp_path: Path) -> None:
    path = tmp_path / "p"
    reads = {"id": "run/job/5", "record": "job", "inputs": [{"input": "out/1.npy"}]}
    tricky = {"id": "run/job/6", "record": "job", "params": '"output": "out/1.npy"'}
    written(path, reads, tricky)
    with ProvenanceReader(path) as reader:
        assert list(reader.outputs_at("out/1.npy")) == []


def test_a_record_that_is_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_RECORD_BYTES", 1000)
    path = tmp_path / "p"
    written(path, record(1, filler="x" * 2000), record(2))
    assert ids(path) == ["run/job/2"]


def test_what_cannot_be_written_is_said_and_ends_nothing(tmp_path: Path) -> None:
    store = ProvenanceStore(tmp_path / "missing" / "p")
    store.append(record(1))
    store.close()
    assert store.error is not None
    with pytest.raises(NoProvenance):
        ProvenanceReader(tmp_path / "missing" / "p")


def test_a_full_disk_spoils_no_later_record(tmp_path: Path) -> None:
    path = tmp_path / "p"
    line = line_of(record(1))
    path.write_bytes(b"\n" + line[: len(line) // 2])
    written(path, record(2))
    assert ids(path) == ["run/job/2"]


def test_other_formats_and_odd_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p"
    odd = [b"[1]", b'"x"', b"{}", b'{"id": 7}', b"\0\0\0", json.dumps({"id": "r"}).encode()]
    future = json.dumps({"id": "run", "format": 99}).encode()
    path.write_bytes(b"\n".join([*odd, future, b""]))
    written(path, record(2))
    assert ids(path) == ["r", "run/job/2"]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"")
    assert ids(path) == []
