"""``gpupool plan`` beside real runs of Snakemake (R3)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.acceptance.running import GPUPOOL, Workflow

PLAN = [str(Path(sys.executable).with_name("gpupool")), "plan"]
LIMITS = (*GPUPOOL[2:], "--cores", "2", "--gpupool-devices", "cpu:2")
SEEN = """
rule all:
    input: expand("low/{i}", i=range(6)), expand("alone/{i}", i=range(2))

rule up:
    input: "in/{i}.txt"
    output: "up/{i}"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=0.2
    script: "textual.py"

rule low:
    input: "up/{i}"
    output: "low/{i}"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=0.1, model="other"
    script: "textual.py"

rule alone:
    output: "alone/{i}"
    shell: "sleep 0.5; touch {output}"
"""
#: Long enough that no two rules are merged.
LONG = "word" * 40


def plan(workflow: Workflow, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PLAN, *arguments],
        cwd=workflow.directory,
        env=workflow.environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def planned(workflow: Workflow, *arguments: str, **env: str) -> dict[str, Any]:
    done = plan(workflow, "--json", *arguments, **env)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def rule(of: dict[str, Any], name: str) -> dict[str, Any]:
    return next(rule for rule in of["rules"] if rule["rule"] == name)


def tree(directory: Path) -> dict[str, float]:
    return {str(path.relative_to(directory)): path.stat().st_mtime for path in directory.rglob("*")}


def test_what_was_seen_once_is_foretold(tmp_path: Path) -> None:  # R3
    files = {f"in/{i}.txt": f"{LONG}{i}\n{LONG}shared\n" for i in range(6)}
    workflow = Workflow(tmp_path, SEEN, files)
    before = tree(tmp_path)
    first = plan(workflow, *LIMITS)
    assert tree(tmp_path) == before, "it leaves nothing"
    assert first.returncode == 0
    assert "how long: not known" in first.stdout
    assert "no figure yet for Textual (plain) on cpu: it has never been seen there" in first.stdout
    assert "no figure yet for rule low: its inputs do not exist" in first.stdout
    assert "no figure yet for rule alone: it has never been run" in first.stdout
    assert "run it once" in first.stdout

    running = workflow.start(*LIMITS)
    while not (tmp_path / ".snakemake" / "locks").is_dir():
        time.sleep(0.05)
    beside = plan(workflow, *LIMITS, "--rerun-incomplete")
    assert beside.returncode == 0, "nor does it lock anything, or mind a lock"
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output

    (tmp_path / "in" / "0.txt").write_text(f"{LONG}new\n{LONG}shared\n{LONG}shared\n")
    before = tree(tmp_path)
    said = planned(workflow, *LIMITS, "--forceall", "--devices", "1")
    assert tree(tmp_path) == before
    begin_s = time.monotonic()
    run = workflow.run(*LIMITS, "--forceall")
    took_s = time.monotonic() - begin_s
    assert run.code == 0, run.text
    up = rule(said, "up")
    assert (up["items"], up["items_computed"], up["items_from"]) == (13, 7, "read")
    models = {model["model"]: model for model in said["models"]}
    assert sum(m["loads"] for m in models.values()) == run.summary["model_loads"]
    assert sum(m["items"] for m in models.values()) == run.summary["items_computed"]
    assert set(models) == {event["model"] for event in run.events("model_loaded")}
    # The machine may be busy with other tests; bench/plan.py has the figures.
    assert said["wall_s"] / 8 < took_s < said["wall_s"] * 8
    assert said["low_s"] < said["wall_s"] < said["high_s"]
    assert said["with_devices"]["1"]["wall_s"] > said["wall_s"] * 0.9


MANY = """
localrules: local

rule all:
    input: "near/a", "card/a", "none/a", "bad/a", "own/a", "after", expand("up/{i}", i=range(6))

rule up:
    input: "in/{i}.txt"
    output: "up/{i}"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule local:
    output: "near/{i}"
    shell: "touch {output}"

rule grouped:
    output: "own/{i}"
    group: "g"
    shell: "touch {output}"

rule card:
    output: "card/{i}"
    resources: gpu=9
    shell: "touch {output}"

rule none:
    output: "none/{i}"
    resources: gpupool_tool="nothing.py:Tool"
    shell: "touch {output}"

rule bad:
    input: "card/{i}"
    output: "bad/{i}"
    shell: "touch {output}"

checkpoint split:
    output: directory("parts")
    shell: "mkdir {output}; touch {output}/x"

def parts(wildcards):
    return checkpoints.split.get().output

rule after:
    input: parts
    output: "after"
    shell: "touch {output}"
"""


def test_what_cannot_be_and_what_is_not_known_is_said(tmp_path: Path) -> None:  # R3
    files = {f"in/{i}.txt": f"{LONG}\n" * (i + 1) for i in range(6)}
    workflow = Workflow(tmp_path, MANY, files)
    limits = (*GPUPOOL[2:], "--cores", "2")
    said = planned(workflow, *limits, "--sample", "2", GPUPOOL_SIMULATE="2x24GiB")
    ways = {each["rule"]: each["way"] for each in said["rules"]}
    assert ways["local"] == "local"
    assert (ways["up"], ways["grouped"], ways["all"]) == ("served", "plain CPU", "no body")
    [why] = rule(said, "card")["cannot_run"]
    assert "asks for 9 GPUs, but the pool manages cuda:0, cuda:1" in why
    [why] = rule(said, "none")["cannot_run"]
    assert "there is no tool file" in why
    assert rule(said, "bad")["waits_in_vain"] == 1
    assert said["checkpoints"] == {"split": 1}
    assert any("checkpoint split will change the graph" in why for why in said["unknown"])
    assert any("SIMULATED" in remark for remark in said["remarks"])
    # 1, 2, ... 6 lines of equal length; the first and the fourth are read.
    assert (rule(said, "up")["items"], rule(said, "up")["items_from"]) == (21, "from a sample")


def test_a_mistake_is_one_line(tmp_path: Path) -> None:  # R3
    workflow = Workflow(tmp_path, SEEN)
    for arguments, line in {
        ("--coresx", "2"): "snakemake does not take these arguments",
        ("--executor", "local"): "--executor local is not gpupool",
        ("--lint",): "--lint does not run the workflow: there is nothing to plan",
        ("--cores", "2"): "in/0.txt",
        ("--gpupool-devices", "cuda:7", "alone/1"): "cuda:7",
        ("--gpupool-cluster", "slurm", "alone/1"): "say with --devices what the nodes will have",
        ("--devices", "many", "alone/1"): "--devices 'many' is not understood",
    }.items():
        done = plan(workflow, *arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert line in done.stderr.splitlines()[-1], (arguments, done.stderr)
        assert not done.stdout
    assert not (tmp_path / ".snakemake").exists()
