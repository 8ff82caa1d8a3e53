"""Where outputs came from, against independent hashes: shared, kept, merged, retried (R4)."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.provenance.reader import PLACE, ProvenanceReader
from tests.acceptance.running import Finished, Workflow

TOOLS = """
import os
import signal
from pathlib import Path

from helper import upper
from snakemake_executor_gpupool import Tool


class Upper(Tool):
    version = "3.1"
    devices = ("cpu",)
    max_short_tokens = 1000
    reload_on = ("weights", "precision")
    defaults = {"weights": "", "precision": "fp32", "die": "", "fail": ""}

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def key(self, item):
        return item

    def load(self, device):
        pass

    def run(self, items):
        if self.params.die and Path(self.params.die).exists():
            Path(self.params.die).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return [upper(item) for item in items]

    def write(self, job, results):
        if job.params.fail and Path(job.params.fail).exists():
            Path(job.params.fail).unlink()
            raise OSError("not this time")
        Path(job.output[0]).write_text(" ".join(results))
        for path in job.output[1:]:
            Path(path).mkdir(exist_ok=True)
            for word in results:
                (Path(path) / word).write_text(word)


class Length(Upper):
    version = "1"

    def run(self, items):
        return [str(len(item)) for item in items]
"""
SNAKEFILE = """
S = ["s0", "s1", "s2"]
rule all:
    input:
        expand("b/{s}.txt", s=S), expand("c/{n}.txt", n=["killed", "failed"]), "d/plain.txt", "e/dir"
rule upper:
    input: "in/{s}.txt"
    output: "a/{s}.txt"
    params: weights="w.bin"
    resources: gpupool_tool="made.py:Upper"
    shell: "false"
rule length:
    input: "a/{s}.txt"
    output: "b/{s}.txt"
    resources: gpupool_tool="made.py:Length"
    shell: "false"
rule again:
    input: "in/{n}.txt"
    output: "c/{n}.txt"
    retries: 1
    params: die=lambda w: "mark1" if w.n == "killed" else "", fail=lambda w: "mark2" if w.n == "failed" else "", precision="bf16"
    resources: gpupool_tool="made.py:Upper"
    shell: "false"
rule plain:
    output: "d/plain.txt"
    resources: gpu=1
    shell: "echo plain > {output}"
rule folder:
    input: "in/s0.txt"
    output: "e/list.txt", directory("e/dir")
    resources: gpupool_tool="made.py:Upper"
    shell: "false"
"""  # noqa: E501
GPUPOOL = str(Path(sys.executable).parent / "gpupool")
DEVICES = ("--gpupool-devices", "cpu:1,cuda:0")
INPUTS = {
    "s0": "alpha beta",
    "s1": "alpha gamma",
    "s2": "alpha beta",
    "killed": "k1",
    "failed": "f",
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_it(workflow: Workflow, *more: str) -> Finished:
    return workflow.run("--gpupool-cache", "kept", *DEVICES, *more, GPUPOOL_SIMULATE="1")


def records_of(directory: Path) -> list[dict[str, Any]]:
    with ProvenanceReader(directory / PLACE) as reader:
        return list(reader)


def by_output(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    jobs = [record for record in records if record["record"] == "job"]
    return {each["output"]: {**job, **each} for job in jobs for each in job["outputs"]}


def why(directory: Path, path: str) -> dict[str, Any]:
    command = [GPUPOOL, "why", "--json", path]
    before = os.times()  # of processors: the machine may be busy
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    now = os.times()
    taken_s = now.children_user + now.children_system
    taken_s -= before.children_user + before.children_system
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "code": done.returncode, "taken_s": taken_s}


def test_every_output_has_its_origin(tmp_path: Path) -> None:  # noqa: C901 - one workflow
    # R4
    files = {f"in/{name}.txt": text for name, text in INPUTS.items()}
    files |= {"made.py": TOOLS, "helper.py": "def upper(text):\n    return text.upper()\n"}
    files |= {"w.bin": "weights", "mark1": "", "mark2": ""}
    workflow = Workflow(tmp_path, SNAKEFILE, files)
    time.sleep(2.5)  # results that depend on files changed just now are not kept
    first = run_it(workflow)
    assert first.code == 0, first.text
    records = records_of(tmp_path)
    found = by_output(records)
    known = {record["id"]: record for record in records}

    # Contents, against hashes made here.
    served = [f"{d}/{s}.txt" for d in "ab" for s in ("s0", "s1", "s2")]
    served += ["c/killed.txt", "c/failed.txt", "e/list.txt"]
    assert set(found) == {*served, "d/plain.txt", "e/dir"}
    for path in served:
        record = found[path]
        assert record["sha256"] == sha256(tmp_path / path), path
        assert record["size_bytes"] == (tmp_path / path).stat().st_size
        assert record["kind"] == "served"
        (source,) = record["inputs"]
        assert source["sha256"] == sha256(tmp_path / source["input"]), path
    listing = "".join(
        f"{sha256(tmp_path / 'e/dir' / name)}  {name}\n" for name in ("ALPHA", "BETA")
    )
    assert found["e/dir"]["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    assert found["e/dir"]["kind"] == "directory"

    # The job, its tool, its device.
    job = found["c/killed.txt"]
    assert (job["rule"], job["wildcards"]) == ("again", {"n": "killed"})
    assert job["params"] == {"die": "mark1", "fail": "", "precision": "bf16"}
    assert (job["attempt"], job["tries"]) == (1, 2)
    assert (found["c/failed.txt"]["attempt"], found["c/failed.txt"]["tries"]) == (2, 1)
    model = known[found["a/s0.txt"]["model"]]
    assert (model["version"], model["precision"]) == ("3.1", "fp32")
    assert model["weights"] == [{"path": "w.bin", "size_bytes": 7, "sha256": sha256_of("weights")}]
    assert model["python"] == platform.python_version()
    assert model["file"] == str(tmp_path / "made.py")
    assert known[job["model"]]["precision"] == "bf16"
    run = known[found["a/s0.txt"]["id"].partition("/")[0]]
    assert run["mode"] == "default"
    assert run["simulated"] is True
    assert [device["name"] for device in run["devices"]] == ["cuda:0", "cpu:0"]
    assert run["devices"][0]["simulated"] is True

    # Batches and their members; who shared with whom.
    members: Counter[str] = Counter()
    for record in records:
        if record["record"] == "batch":
            assert record["devices"] == ["cpu:0"]
            assert known[record["worker"]]["devices"] == record["devices"]
            members.update(record["keys"])
    came: Counter[str] = Counter()
    for path in [*served[:3], "e/list.txt"]:
        came.update(found[path]["came"])
        assert all(number in known for number, _ in found[path]["batches"])
        assert sum(n for _, n in found[path]["batches"]) == 2
    assert came["computed"] + came["duplicate"] + came["merged"] == 8
    assert came["computed"] >= 3
    assert members["gamma"] == 1
    assert members["f"] == 2, "the file that its params name was gone at the second attempt"
    assert found["c/failed.txt"]["came"] == {"computed": 1}
    sources = {each["path"]: each.get("sha256") for each in model["code_files"]}
    paths = [tmp_path / name for name in ("made.py", "helper.py")]
    assert sources == {str(path): sha256(path) for path in paths}
    merged = [found[path]["came"] for path in served[3:6]]
    assert {"merged": 2} in merged, merged

    # What is not covered has no content.
    plain = found["d/plain.txt"]
    assert plain["kind"] == "leased"
    assert plain["devices"] == ["cuda:0"]
    assert "sha256" not in plain

    # A second run takes kept results; the first one's directory may go.
    for folder in "ab":
        shutil.rmtree(tmp_path / folder)
    second = run_it(workflow, "a/s0.txt", "a/s1.txt")
    assert second.code == 0, second.text
    again = by_output(records_of(tmp_path))
    assert again["a/s0.txt"]["sha256"] == found["a/s0.txt"]["sha256"]
    assert again["a/s0.txt"]["id"] != found["a/s0.txt"]["id"]
    assert again["a/s0.txt"]["came"].get("kept", 0) >= 1
    for directory in (tmp_path / ".snakemake/gpupool").iterdir():
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
    answer = why(tmp_path, "a/s0.txt")
    assert (answer["status"], answer["code"]) == ("same", 0)
    assert answer["taken_s"] < 1.5
    origins = {each["run"] for each in answer["kept_from"]}
    assert origins == {run["run"]}
    assert why(tmp_path, "d/plain.txt")["status"] == "unverified"

    # Moved, changed, unknown.
    shutil.move(tmp_path / "c/failed.txt", tmp_path / "elsewhere.txt")
    moved = why(tmp_path, "elsewhere.txt")
    assert (moved["status"], moved["written_as"]) == ("moved", ["c/failed.txt"])
    (tmp_path / "a/s1.txt").write_text("other")
    changed = why(tmp_path, "a/s1.txt")
    assert (changed["status"], changed["code"]) == ("changed", 1)
    assert changed["job"]["wildcards"] == {"s": "s1"}
    unknown = why(tmp_path, "Snakefile")
    assert (unknown["status"], unknown["code"]) == ("unknown", 1)

    # As a crate, after its directory has gone; one that is torn is noticed.
    place = tmp_path / "crate"
    made = subprocess.run(
        [GPUPOOL, "crate", run["run"], str(place), "--files", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if "needs the package rocrate" in made.stderr:
        pytest.skip("the package rocrate is missing")
    assert made.returncode == 0, made.stderr
    graph = json.loads((place / "ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    actions = [entity for entity in graph if str(entity["@id"]).startswith("#job-")]
    actions = [entity for entity in actions if entity["@type"] == "CreateAction"]
    assert len(actions) == len({record["id"] for record in found.values()})
    for entity in graph:
        if str(entity["@id"]).startswith("files/") and entity["@type"] == "File":
            assert sha256(place / entity["@id"]) == entity["sha256"]
    assert "files/a/s0.txt" in entities
    assert validated(place) == []
    graph.remove(next(each for each in graph if each["@type"] == "OrganizeAction"))
    for entity in graph:
        if entity["@type"] == "ControlAction":
            del entity["instrument"]
    text = json.dumps({"@context": CONTEXTS, "@graph": graph})
    (place / "ro-crate-metadata.json").write_text(text)
    assert any("ControlAction" in line for line in validated(place))


CONTEXTS = [
    "https://w3id.org/ro/crate/1.1/context",
    "https://w3id.org/ro/terms/workflow-run/context",
]


def validated(crate: Path) -> list[str]:
    """What rocrate-validator says against a crate at its provenance profile."""
    python = os.environ.get("GPUPOOL_TEST_CRATE_PYTHON", sys.executable)
    program = Path(__file__).with_name("crate_validation.py")
    done = subprocess.run(
        [python, str(program), str(crate)], capture_output=True, text=True, check=False
    )
    if "No module named 'rocrate_validator'" in done.stderr or "rdflib" in done.stderr:
        pytest.skip(
            "roc-validator is missing: GPUPOOL_TEST_CRATE_PYTHON names a Python that has it"
        )
    assert not done.stderr or done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (done.returncode == 0) == (not lines), done.stdout
    return lines


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_off_means_off(tmp_path: Path) -> None:
    snakefile = """
    rule upper:
        input: "in/s0.txt"
        output: "a/s0.txt"
        resources: gpupool_tool="made.py:Upper"
        shell: "false"
    """
    files = {"in/s0.txt": "x", "made.py": TOOLS, "helper.py": "upper = str.upper\n"}
    done = Workflow(tmp_path, snakefile, files).run("a/s0.txt", GPUPOOL_PROVENANCE="off")
    assert done.code == 0, done.text
    assert (tmp_path / "a/s0.txt").read_text() == "X"
    assert not (tmp_path / PLACE).exists()
