"""Records of provenance from a run in simulated time: bounded, and with nothing made up (R4)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.provenance.reader import ProvenanceReader
from snakemake_executor_gpupool.records.provenance.recorder import MAX_OUTPUTS, ProvenanceRecorder
from snakemake_executor_gpupool.records.provenance.store import ProvenanceStore, line_of
from snakemake_executor_gpupool.scheduling.provenance import MAX_JOBS, came
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.requests import (
    Container,
    JobFacts,
    Request,
    ToolRef,
    params_text,
)

START = {"cwd": "/work", "device_info": [{"name": "cuda:0", "uuid": None, "model": "H100"}]}


def item(key: str, job_id: int = 0, batch_id: int = 0, tries: int = 1) -> WorkItem:
    made = WorkItem(("", "m", "g", key), "g", 1.0, 1, b"", key, (0, 0), 0)
    made.job_id, made.batch_id, made.tries = job_id, batch_id, tries
    return made


def request(outputs: int = 1, inputs: int = 1, params: Any = None) -> Request:
    paths = [f"out/{n}" for n in range(outputs)], [f"in/{n}" for n in range(inputs)]
    facts = JobFacts.of("rule", {"s": "x"}, paths[1], paths[0], [], params=params)
    return Request(7, "rule rule (s=x)", ToolRef("t", "/", "py"), b"", b"", "/", facts=facts)


def fact(made: Request, **more: Any) -> dict[str, Any]:
    hashes = [f"1:{n:064x}" for n in range(made.facts.n_outputs)]
    nothing = {"inputs": (), "items": 1, "worked_s": 0.5, "cost": {}, "model": "m"}
    return {"request": made, "outputs": hashes, **nothing, **came([item("a", 7, 3)], 7), **more}


def recorded(path: Path, *facts: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    recorder = ProvenanceRecorder(ProvenanceStore(path), "run", "0.1", lambda: 5.0)
    recorder.take(1.0, "run_started", START)
    for kind, fields in facts:
        recorder.fact(kind, fields)
    recorder.close()
    with ProvenanceReader(path) as reader:
        return list(reader)


# -- how items came ----------------------------------------------------------------------
def test_each_item_came_in_one_way() -> None:
    twice = item("b", 7, 2)
    items = [item("a", 7, 1), twice, twice, item("c", 4, 1), item("d", 7), item("e", 0, 9)]
    found = came(items, 7)
    assert found["came"] == {"computed": 2, "duplicate": 2, "kept": 1, "merged": 1}
    assert found["batches"] == [(1, 2), (2, 2), (9, 1)]
    assert found["duplicate_of"] == [4]
    assert found["kept"] == [("", "m", "g", "d")]


def test_a_duplicate_of_a_kept_result_has_its_key_too() -> None:
    found = came([item("a", 4)], 7)
    assert found["came"] == {"duplicate": 1}
    assert found["kept"] == [("", "m", "g", "a")]
    assert found["n_batches"] == 0


def test_what_is_named_of_a_large_job_is_bounded() -> None:
    found = came([item(str(n), n + 100, n + 1) for n in range(5000)], 7)
    assert found["came"] == {"duplicate": 5000}
    assert found["n_batches"] == 5000
    assert len(found["batches"]) == 100  # type: ignore[arg-type]
    assert len(found["duplicate_of"]) == MAX_JOBS  # type: ignore[arg-type]


# -- records -----------------------------------------------------------------------------
def test_nothing_is_written_for_a_run_without_jobs(tmp_path: Path) -> None:
    assert not (tmp_path / "p").exists()
    recorder = ProvenanceRecorder(ProvenanceStore(tmp_path / "p"), "run", "0.1")
    recorder.take(1.0, "run_started", START)
    recorder.close()
    assert not (tmp_path / "p").exists()


def test_a_model_in_two_images_is_two(tmp_path: Path) -> None:  # K1 R4
    images = [Container("/i.sif", "i.sif", f"sha256:{n}", "", "-B /d") for n in "ab"]
    tools = [ToolRef("t", "/", "py", container=image, activation="start it") for image in images]
    facts = []
    for tool in tools:
        of_model = {"model": "m", "label": "M", "software": tool.surroundings}
        environment = tool.surroundings[-9:]
        facts += [("model", {**of_model, "environment": environment})] * 2
        facts.append(("job", fact(replace(request(), tool=tool))))
    _, first, start, one, second, other = recorded(tmp_path / "p", *facts)
    assert first["environment_sha256"] != second["environment_sha256"]
    assert (one["model"], other["model"]) == (first["id"], second["id"])
    assert start["command"] == "start it" and Path(start["package"], "errors.py").exists()
    named = {"image": "i.sif", "path": "/i.sif", "arguments": "-B /d", "start": start["id"]}
    assert one["container"] == {**named, "sha256": "a"}
    assert other["container"] == {**named, "sha256": "b"}


def test_unknown_stays_unknown(tmp_path: Path) -> None:
    run, job = recorded(tmp_path / "p", ("job", fact(request(), model="", outputs=())))
    assert run["devices"] == [{"name": "cuda:0", "model": "H100"}]
    assert "driver" not in run
    assert "seed" not in run
    assert run["mode"] == "default"
    assert job["outputs"] == [{"output": "out/0"}]
    assert job["inputs"] == [{"input": "in/0"}]
    assert not {"model", "params", "attempt", "duplicate_of", "kept", "cost"} & set(job)


@pytest.mark.parametrize("hashes", [("1:" + "0" * 64,), ("1:" + "0" * 64,) * 3])
def test_hashes_that_are_not_as_many_as_files_count_for_none(
    tmp_path: Path, hashes: tuple[str, ...]
) -> None:
    made = request(outputs=2, inputs=2)
    _, job = recorded(tmp_path / "p", ("job", fact(made, outputs=hashes, inputs=hashes)))
    assert not any("sha256" in each for each in [*job["outputs"], *job["inputs"]])


def test_each_of_many_outputs_is_found_and_each_record_is_bounded(tmp_path: Path) -> None:
    count = 2 * MAX_OUTPUTS + 50
    inputs = ["1:" + "0" * 64] * 5000
    made = request(outputs=count, inputs=5000, params={"text": "x" * 3000})
    records = recorded(tmp_path / "p", ("job", fact(made, inputs=inputs)))
    assert [record["record"] for record in records] == ["run", "job", "outputs", "outputs"]
    assert len(records[1]["inputs"]) == 100
    assert len(records[1]["inputs_sha256"]) == 64
    assert all(len(line_of(record)) < 64 * 1024 for record in records)
    with ProvenanceReader(tmp_path / "p") as reader:
        for number in (0, MAX_OUTPUTS, count - 1):
            ((output, job),) = reader.outputs_at(f"out/{number}")
            assert output["sha256"] == f"{number:064x}"
            assert job["id"] == records[1]["id"]
            assert next(reader.outputs_with(f"{number:064x}"))[1]["id"] == job["id"]


def test_a_batch_names_some_members_and_counts_all(tmp_path: Path) -> None:
    keys = [f"{n:0300d}" for n in range(5000)]
    shape = {"items": 5000, "tokens": 9, "padded_tokens": 9, "longest_tokens": 3}
    fields = {"batch": 3, "worker": "w", "devices": ["cuda:0"], "merged": False, "keys": keys}
    _, batch = recorded(tmp_path / "p", ("batch", {**fields, **shape, "seconds": 0.5}))
    assert batch["items"] == 5000
    assert len(batch["keys"]) == 100
    assert len(line_of(batch)) < 64 * 1024


def test_a_model_is_described_once(tmp_path: Path) -> None:
    model = {
        "model": "m",
        "software": "",
        "code": "c",
        "weights": [f"1:{'0' * 64} w.pt", " gone", "odd w"],
    }
    _, found = recorded(tmp_path / "p", ("model", model), ("model", model))
    assert found["weights"] == [
        {"path": "w.pt", "size_bytes": 1, "sha256": "0" * 64},
        {"path": "gone"},
        {"path": "w"},
    ]


def test_params_are_text_that_json_has_or_none() -> None:
    assert params_text({}) == params_text(None) == ""
    assert params_text({"x": "y" * 5000}) == ""
    assert json.loads(params_text({"a": (1, None), "b": Path("x")})) == {
        "a": [1, None],
        "b": repr(Path("x")),
    }
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert params_text(circle) == ""


def test_two_runs_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    recorded(tmp_path / "p", ("job", fact(request())))
    records = recorded(tmp_path / "p", ("job", fact(request())))
    assert len({record["id"] for record in records}) == 4
