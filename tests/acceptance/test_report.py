"""The report that a real run leaves, against a count over its events."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.report.data import MARK_KINDS, SPAN_KINDS, STATES
from tests.acceptance.running import Finished, Workflow

SNAKEFILE = """
rule all:
    input: expand("up/{i}.txt", i=range(6)), expand("low/{i}.txt", i=range(4)), "card.txt"

rule up:
    input: "in/{i}.txt"
    output: "up/{i}.txt"
    log: "log/{i}.log"
    params: model="m1"
    resources: gpupool_tool="textual.py:Textual", runtime=2
    script: "textual.py"

rule low:
    input: "up/{i}.txt"
    output: "low/{i}.txt"
    params: model="m2"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule card:
    output: "card.txt"
    resources: gpu=1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
"""
INPUTS = {
    **{f"in/{i}.txt": f"shared\nown {i}\n" for i in range(4)},
    "in/4.txt": "bad\n",
    "in/5.txt": "die\nfine\n",
}
#: One card for two models and a plain job.
ARGUMENTS = ("--keep-going", "--gpupool-merge", "off", "--gpupool-report", "out/my report.html")


def data_of(path: Path) -> dict[str, Any]:
    packed = re.search(r'id="data">([^<]*)</script>', path.read_text())
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def column(packed: Any) -> list[int]:
    return list(accumulate(packed["steps"])) if isinstance(packed, dict) else packed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    workflow = Workflow(tmp_path_factory.mktemp("report") / "w", SNAKEFILE, INPUTS)
    return workflow.run(*ARGUMENTS, GPUPOOL_SIMULATE="1x16GiB")


@pytest.fixture(scope="module")
def data(done: Finished) -> dict[str, Any]:
    return data_of(done.directory / "out/my report.html")


def test_it_lies_in_the_runs_directory_and_where_it_was_asked_for(done: Finished) -> None:
    assert done.code == 1  # two jobs fail, as they are to
    asked = done.directory / "out/my report.html"
    own = done.directory / ".snakemake/gpupool/latest/report.html"
    assert own.read_text() == asked.read_text()
    assert own.stat().st_mode & 0o077 == 0
    assert "gpupool: report: out/my report.html" in done.text


def test_jobs_end_as_the_events_say(done: Finished, data: dict[str, Any]) -> None:
    states = {
        job_id: STATES[state].value
        for job_id, state in zip(column(data["jobs"]["id"]), data["jobs"]["state"], strict=True)
    }
    told = {e["job_id"]: "done" for e in (*done.events("job_done"), *done.events("lease_released"))}
    told |= {e["job_id"]: "failed" for e in done.events("job_failed")}
    assert states == told
    assert sorted(told.values()) == ["done"] * 9 + ["failed"] * 2
    errors = "\n".join(data["texts"])
    assert "this line is bad" in errors
    assert "exit code 7" in errors


def test_batches_and_their_jobs_are_the_events(done: Finished, data: dict[str, Any]) -> None:
    ids = column(data["jobs"]["id"])
    at, shown = 0, {}
    for batch, size in zip(column(data["batches"]["id"]), data["batches"]["parts"], strict=True):
        members = accumulate(data["parts"]["job"][at : at + size])
        shown[batch] = {ids[member] for member in members}
        at += size
    sent = {event["batch"]: set(event["jobs"]) for event in done.events("batch_sent")}
    assert shown == sent
    lost = {b for b, is_lost in zip(shown, data["batches"]["lost"], strict=True) if is_lost}
    assert lost == set(sent) - {event["batch"] for event in done.events("batch_done")}
    assert len(lost) >= 3


def test_duplicates_costs_and_files_are_known(done: Finished, data: dict[str, Any]) -> None:
    rules = {rule["name"]: rule for rule in data["rules"]}
    ended = done.events("job_done") + done.events("job_failed")
    for rule in ("up", "low"):
        of_rule = [event for event in ended if event["job"].startswith(f"rule {rule} ")]
        assert rules[rule]["duplicates"] == sum(event.get("duplicates", 0) for event in of_rule)
        device_s = sum(event.get("device_s", 0.0) for event in of_rule)
        assert rules[rule]["device_s"] == pytest.approx(device_s)
    assert rules["up"]["duplicates"] == 3
    assert rules["card"]["leases"] == 1
    jobs = data["jobs"]
    first = jobs["words"].index("i=0")
    assert (jobs["inputs"][first], jobs["outputs"][first]) == ("in/0.txt", "up/0.txt")
    assert jobs["logs"][first] == "log/0.log"
    assert jobs["limit"][first] == 120 * 10_000
    assert sum(jobs["over"]) == sum(rule["over"] for rule in data["rules"])


def test_the_timeline_has_all_that_happened(done: Finished, data: dict[str, Any]) -> None:  # R2
    kinds = [SPAN_KINDS[kind].value for kind in data["spans"]["kind"]]
    assert kinds.count("load") == len(done.events("load_sent"))
    assert kinds.count("read") == len(done.events("read_sent"))
    assert kinds.count("write") == len(done.events("write_sent"))
    assert kinds.count("import") == len(done.events("tool_imported"))
    marks = [MARK_KINDS[kind] for kind in data["marks"]["kind"]]
    assert marks.count("evicted") == len(done.events("evicted"))
    assert marks.count("worker_died") == len(done.events("worker_died"))
    assert len(data["holds"]["device"]) == len(done.events("lease_granted")) == 1
    assert all(start >= 0 for start in column(data["spans"]["start"]))


def test_the_run_says_how_it_was_started(data: dict[str, Any]) -> None:
    about = data["run"]
    assert about["state"] == "ended"
    assert about["simulated"] is True
    options = dict(map(tuple, about["options"]))
    assert options["--gpupool-merge"] == "off"
    assert {"gpupool", "python", "snakemake"} <= {name for name, _ in about["versions"]}
    assert data["devices"][0]["memory_mib"] == 16 * 1024


def gpupool(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    module = "snakemake_executor_gpupool.frontends.commandline.main"
    command = [sys.executable, "-m", module, "report", *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_gpupool_report_makes_the_same_again(done: Finished) -> None:
    own = done.directory / ".snakemake/gpupool/latest/report.html"
    left = own.read_text()
    own.unlink()
    again = gpupool(done.directory)
    assert again.returncode == 0, again.stderr
    assert (done.directory / again.stdout.strip()).read_text() == left
    elsewhere = gpupool(done.directory, own.parent.resolve().name, "-o", "a/b.html", "--json")
    told = json.loads(elsewhere.stdout)
    assert told["state"] == "ended"
    assert (done.directory / told["report"]).stat().st_size == told["bytes"]
    assert gpupool(done.directory, "--output", "-").stdout == left


def test_gpupool_report_says_what_it_lacks(tmp_path: Path, done: Finished) -> None:
    none = gpupool(tmp_path)
    assert none.returncode == 2
    assert none.stderr.startswith("gpupool: there is no run")
    (tmp_path / "file").touch()
    nowhere = gpupool(done.directory, "-o", str(tmp_path / "file" / "r.html"))
    assert nowhere.returncode == 1
    assert len(nowhere.stderr.splitlines()) == 1


def test_a_path_that_is_a_directory_is_refused_at_start(done: Finished) -> None:
    workflow = Workflow(done.directory, SNAKEFILE)
    refused = workflow.run("--gpupool-report", "up", GPUPOOL_SIMULATE="1x16GiB")
    assert refused.code == 1
    assert "up/report.html" in refused.text
