"""``gpupool why`` and ``gpupool crate`` on records that were made here (R4)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.frontends.commandline.main import build_parser, main
from snakemake_executor_gpupool.records.provenance.reader import PLACE
from snakemake_executor_gpupool.records.provenance.store import ProvenanceStore

KEYS = ["k" * 64, "l" * 64]


def content(text: str) -> dict[str, Any]:
    return {"size_bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def job(run: str, number: int, path: str, text: str | None, **more: Any) -> dict[str, Any]:
    output = {"output": path, **(content(text) if text is not None else {})}
    head = {"id": f"{run}/job/{number}", "record": "job", "time_s": 100.0 + number}
    named = {"kind": "served", "title": f"rule r{number}", "rule": f"r{number}"}
    return {**head, **named, "outputs": [output], **more}


def run(name: str, directory: Path) -> dict[str, Any]:
    head = {"id": name, "record": "run", "format": 1, "time_s": 99.0, "run": name}
    device = {"name": "cuda:0", "model": "NVIDIA H100", "uuid": "GPU-1"}
    more = {"directory": str(directory), "devices": [device], "mode": "reproducible", "seed": 3}
    return {**head, **more, "gpupool": "0.1", "versions": {"snakemake": "9.27.1"}}


def batch(name: str, number: int) -> dict[str, Any]:
    head = {"id": f"{name}/batch/{number}", "record": "batch", "time_s": 99.5}
    shape = {"items": 64, "tokens": 640, "padded_tokens": 700, "longest_tokens": 12}
    where = {"worker": f"{name}/worker/w", "devices": ["cuda:0"], "model": "m", "group": "g"}
    return {**head, **where, **shape, "keys": KEYS}


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workflow's directory, with two runs' records."""
    root = tmp_path / "work"
    (root / PLACE.parent).mkdir(parents=True)
    (root / "out").mkdir()
    (root / "Snakefile").write_text("rule all:\n")
    monkeypatch.chdir(root)
    model = {"id": "one/model/m", "record": "model", "tool": "x:T", "version": "2"}
    model |= {"code_sha256": "c" * 64, "weights": [{"path": "w.pt", **content("w")}]}
    worker = {"id": "one/worker/w", "record": "worker", "versions": {"torch": "2.13"}}
    served: dict[str, Any] = {"model": "one/model/m", "items": 2, "came": {"computed": 2}}
    served |= {"batches": [["one/batch/1", 2]], "n_batches": 1, "attempt": 2, "tries": 3}
    served |= {"inputs": [{"input": "in.txt", **content("in")}], "n_inputs": 1}
    kept = {"came": {"kept": 1}, "items": 1, "kept": [["m", "g", KEYS[1]]]}
    other = {"came": {"kept": 1}, "items": 1, "kept": [["m", "h", KEYS[1]], ["n", "g", KEYS[1]]]}
    copied = {"came": {"duplicate": 2}, "items": 2, "duplicate_of": ["one/job/1"]}
    put(
        root,
        run("one", root),
        model,
        worker,
        batch("one", 1),
        job("one", 1, "out/a", "A", **served),
        job("one", 2, "out/b", "B", **copied),
        run("two", root),
        job("two", 3, "out/a", "A2", **kept),
        job("two", 5, "out/c", "C", **other),
        job("two", 4, "out/plain", None, kind="leased", devices=["cuda:0"]),
    )
    return root


def put(root: Path, *records: dict[str, Any]) -> None:
    store = ProvenanceStore(root / PLACE)
    for record in records:
        store.append(record)
    store.close()


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["why", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["why", *arguments])
    return capsys.readouterr().out


def test_as_it_was_written(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workflow / "out/b").write_text("B")
    code, whole = asked(capsys, "out/b")
    assert (code, whole["status"], whole["job"]["id"]) == (0, "same", "one/job/2")
    assert whole["duplicates_of"] == [{"id": "one/job/1", "title": "rule r1", "rule": "r1"}]
    text = said(capsys, "out/b")
    assert "it has not changed since" in text.splitlines()[0]
    assert "rule r1 (one/job/1)" in text


def test_all_that_belongs_to_it(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workflow / "out/a").write_text("A")
    code, whole = asked(capsys, str(workflow / "out/a"))
    assert (code, whole["status"], whole["job"]["id"]) == (0, "same", "one/job/1")
    assert whole["later"]["id"] == "two/job/3"
    assert whole["model"]["version"] == "2"
    assert whole["batches"][0]["devices"][0]["uuid"] == "GPU-1"
    assert whole["batches"][0]["worker"]["versions"] == {"torch": "2.13"}
    text = said(capsys, "out/a")
    for words in (
        *("rule r3 has written another content since", f"sha256 {content('A')['sha256']}"),
        *("in.txt", "mode=reproducible, seed=3", "torch=2.13", "snakemake=9.27.1", "w.pt"),
        *("batch 1", "cuda:0 NVIDIA H100 GPU-1", "2, an item of it was tried 3 times", "c" * 64),
    ):
        assert words in text, words


def test_a_kept_result_names_the_batch_that_computed_it(
    workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workflow / "out/a").write_text("A2")
    _, whole = asked(capsys, "out/a")
    assert whole["job"]["id"] == "two/job/3"
    assert "later" not in whole
    assert [each["id"] for each in whole["kept_from"]] == ["one/batch/1"]
    (workflow / "out/c").write_text("C")
    # The same item with other params, or of another model, was not computed there.
    assert "kept_from" not in asked(capsys, "out/c")[1]


def test_changed_missing_and_unknown(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workflow / "out/a").write_text("something else")
    code, whole = asked(capsys, "out/a")
    assert (code, whole["status"], whole["job"]["id"]) == (1, "changed", "two/job/3")
    assert "HAS CHANGED since rule r3" in said(capsys, "out/a")
    (workflow / "out/a").write_text("B")
    assert asked(capsys, "out/a")[1]["written_as"] == ["out/b"]
    (workflow / "out/a").unlink()
    code, whole = asked(capsys, "out/a")
    assert (code, whole["status"]) == (1, "missing")
    assert "there is no such file now" in said(capsys, "out/a")
    code, whole = asked(capsys, "Snakefile")
    assert (code, whole["status"]) == (1, "unknown")
    assert "nothing is known of it" in said(capsys, "Snakefile")


def test_moved_within_out_of_and_into_another_workflow(
    workflow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    (other / PLACE.parent).mkdir(parents=True)
    put(other, run("three", other), job("three", 1, "x", "X"))
    for path in (workflow / "renamed", tmp_path / "renamed", other / "renamed"):
        path.write_text("B")
        code, whole = asked(capsys, str(path))
        assert (code, whole["status"], whole["written_as"]) == (0, "moved", ["out/b"])
        assert "moved or copied" in said(capsys, str(path))


def test_the_directory_of_a_workflow_may_be_renamed(
    workflow: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workflow / "out/b").write_text("B")
    renamed = workflow.with_name("renamed")
    monkeypatch.chdir(workflow.parent)
    workflow.rename(renamed)
    assert asked(capsys, str(renamed / "out/b"))[1]["status"] == "same"
    assert asked(capsys, "--store", str(renamed), str(renamed / "out/b"))[1]["status"] == "same"


def test_what_is_not_covered_is_not_called_the_same(
    workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workflow / "out/plain").write_text("whatever")
    code, whole = asked(capsys, "out/plain")
    assert (code, whole["status"]) == (0, "unverified")
    text = said(capsys, "out/plain")
    assert "not covered" in text
    assert "cuda:0 NVIDIA H100 GPU-1" in text


def test_no_provenance_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("x")
    assert main(["why", "x"]) == 2
    assert "--store names" in capsys.readouterr().err
    assert main(["why", "--store", "nowhere", "x"]) == 2


def test_a_damaged_record_is_said_and_ends_nothing_with_a_traceback(
    workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workflow / "out/b").write_text("B")
    lines = (workflow / PLACE).read_bytes().splitlines(keepends=True)
    said = []
    for number, line in enumerate(lines):
        for name in json.loads(line) if line.strip() else ():
            for value in ("x", [1]):
                damaged = json.dumps({**json.loads(line), name: value}).encode() + b"\n"
                others = lines[:number], lines[number + 1 :]
                (workflow / PLACE).write_bytes(b"".join([*others[0], damaged, *others[1]]))
                for file in ("out/a", "out/b"):
                    assert main(["why", file]) in (0, 1, 2)
                    said.append(capsys.readouterr().err)
    assert any("provenance.jsonl has a record that makes no sense" in text for text in said)


def test_a_crate_of_a_run(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rocrate", reason="the package rocrate is missing")
    (workflow / "out/a").write_text("A")
    (workflow / "in.txt").write_text("changed")
    assert main(["crate", "one", "c", "--files", "--license", "CC0-1.0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "one", "crate": "c", "jobs": 2}
    graph = json.loads((workflow / "c/ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert entities["files/out/a"]["sha256"] == content("A")["sha256"]
    assert (workflow / "c/files/out/a").read_text() == "A"
    source = entities[(workflow / "in.txt").as_uri()]
    assert source["sha256"] == content("in")["sha256"]
    assert "has changed" in source["description"]
    action = entities["#job-1"]
    assert action["result"] == {"@id": "files/out/a"}
    assert entities[action["instrument"]["@id"]]["softwareVersion"] == "2"
    assert entities["./"]["license"] == "CC0-1.0"
    lines = (workflow / "c/provenance.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"].partition("/")[0] for line in lines} == {"one"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope", "c"], "knows no run nope"),
        (["one", "out"], "out is there already"),
        (["one", "c", "--snakefile", "missing.smk"], "there is no missing.smk"),
    ],
)
def test_a_crate_that_cannot_be_written(
    workflow: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    pytest.importorskip("rocrate", reason="the package rocrate is missing")
    (workflow / "out/a").write_text("A")
    assert main(["crate", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (workflow / "c").exists()


def test_a_run_without_jobs_has_no_crate(workflow: Path) -> None:
    pytest.importorskip("rocrate", reason="the package rocrate is missing")
    put(workflow, run("three", workflow))
    options = build_parser().parse_args(["crate", "latest", "c"])
    with pytest.raises(GpupoolError, match="no job"):
        options.command(options)
