"""What a real run leaves: costs that add up, a table, a trace, runtimes; old runs are removed."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from snakemake_executor_gpupool.records.runs.costs import account_of
from snakemake_executor_gpupool.records.runs.files import find_run
from snakemake_executor_gpupool.records.runs.reader import read_run
from snakemake_executor_gpupool.records.runs.states import JobState
from snakemake_executor_gpupool.records.runs.trace import trace_text
from tests.acceptance.running import Finished, Workflow
from tests.unit.trace_format import problems

SNAKEFILE = """
GOOD = [f"{i}.{m}" for i in range(8) for m in ("one", "two")]

rule all:
    input: expand("out/{each}.up", each=GOOD), "card.txt", "out/bad.one.up", "out/die.two.up"

rule good:
    input: expand("out/{each}.up", each=GOOD)

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.{m}.up"
    wildcard_constraints: m="one|two"
    benchmark: "bench/{i}.{m}.jsonl"
    resources: gpupool_tool="textual.py:Textual"
    params: model=lambda wildcards: wildcards.m, sleep_s=0.2
    script: "textual.py"

rule card:
    output: "card.txt"
    resources: gpu=1
    shell: "sleep 0.3; touch {output}"
"""
FILES = {f"in/{i}.txt": f"alpha{i % 3}\nbeta\ngamma{i}\n" for i in range(8)}
FILES |= {"in/bad.txt": "bad\nbeta\n", "in/die.txt": "die\nalpha1\n"}


def test_costs_of_a_real_run_add_up(tmp_path: Path) -> None:  # R6
    workflow = Workflow(tmp_path, SNAKEFILE, FILES)
    options = ("--keep-going", "--benchmark-extended", "--gpupool-keep-runs", "2")
    run = workflow.run(*options, GPUPOOL_SIMULATE="2x16GiB")
    assert run.code == 1, run.text
    check_account(run)
    check_table(run)
    check_benchmarks(run)
    check_runtimes(workflow, run)
    root = tmp_path / ".snakemake" / "gpupool"
    failed = find_run(None, root)
    for _ in range(2):
        shutil.rmtree(tmp_path / "out")
        again = workflow.run("good", "--gpupool-keep-runs", "1", GPUPOOL_SIMULATE="2x16GiB")
        assert again.code == 0, again.text
    left = {path.name for path in root.iterdir() if path.is_dir() and not path.is_symlink()}
    assert left == {failed.name, find_run(None, root).name}


def check_account(run: Finished) -> None:
    view = read_run(find_run(None, run.directory / ".snakemake" / "gpupool"))
    assert view.notes == [] and view.summary is not None
    jobs = view.jobs.values()
    states = [job.state for job in jobs]
    assert (states.count(JobState.DONE), states.count(JobState.FAILED)) == (16, 2)
    busy_s = math.fsum(device["busy_s"] for device in view.summary["devices"].values())
    costs = view.summary["costs"]
    shares_s = math.fsum(job.cost.device_s or 0.0 for job in jobs)
    overhead_s = math.fsum(costs.values()) - costs["jobs_s"]
    assert costs["lost_s"] > 0
    assert abs(shares_s + overhead_s - busy_s) <= 0.001 * busy_s
    account = account_of(view)
    assert abs(account.busy_s - busy_s) <= 0.001 * busy_s
    held_s = sum(
        (worker.ended_at_s or view.end_s) - (worker.started_at_s or 0.0)
        for worker in view.workers.values()
        if worker.devices
    )
    leased_s = account.by_line["leased"]
    assert leased_s >= 0.3
    total_s = math.fsum(account.by_line.values()) - leased_s
    assert abs(total_s - held_s) <= 0.01 * held_s
    shared = next(job for job in jobs if job.wildcards == {"i": "0", "m": "one"})
    assert view.company(shared.job_id) and shared.inputs == ("in/0.txt",)
    assert view.versions["snakemake"] and view.options["--gpupool-keep-runs"] == 2
    assert problems(json.loads("".join(trace_text(view)))) == []


def check_table(run: Finished) -> None:
    path = find_run(None, run.directory / ".snakemake" / "gpupool") / "jobs.tsv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    by_status = [row["status"] for row in rows]
    assert (by_status.count("COMPLETED"), by_status.count("FAILED")) == (17, 2)
    (card,) = [row for row in rows if row["kind"] == "leased"]
    assert card["process"] == "card" and float(card["device_s"]) >= 0.3


def check_benchmarks(run: Finished) -> None:
    """The resources of an extended benchmark say what the run's own files say."""
    view = read_run(find_run(None, run.directory / ".snakemake" / "gpupool"))
    for job in view.jobs.values():
        if job.state is JobState.DONE:
            path = run.directory / "bench" / f"{job.wildcards['i']}.{job.wildcards['m']}.jsonl"
            record = json.loads(path.read_text())
            assert record["resources"]["gpupool_device_s"] == job.cost.device_s
            assert record["wildcards"] == job.wildcards and record["rule_name"] == "up"
            assert record["s"] == pytest.approx(job.worked_s, abs=2e-4)


def check_runtimes(workflow: Workflow, run: Finished) -> None:
    """Snakemake's own report shows each job's share of the work, not how long it waited."""
    report = workflow.run("--report", "report.html", "good", "--executor", "local", "--cores", "1")
    assert report.code == 0, report.text
    text = (run.directory / "report.html").read_text()
    found = re.findall(r'"rule": ?"up", ?"runtime": ?([-\d.e]+)', text)
    view = read_run(find_run(None, run.directory / ".snakemake" / "gpupool"))
    done = {job.outputs[0]: job for job in view.jobs.values() if job.state is JobState.DONE}
    runtimes = []
    for path in (run.directory / ".snakemake" / "metadata").iterdir():
        job = done.get(base64.b64decode(path.name).decode())
        if job is not None:
            told = json.loads(path.read_text())
            runtimes.append(told["endtime"] - told["starttime"])
            assert job.worked_s is not None and job.done_at_s is not None
            # Not when it was submitted; Snakemake may hear of its end a moment later.
            assert told["starttime"] > job.done_at_s - job.worked_s - 0.1
            assert runtimes[-1] > job.worked_s - 0.1
    assert len(found) == len(runtimes) == 16
    assert sorted(map(float, found)) == pytest.approx(sorted(runtimes))
