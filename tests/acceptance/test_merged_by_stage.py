"""Chains whose models take long to load go through them one at a time until all are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.running import LOCAL, Finished, Workflow

TOOLS = """
import os
import signal
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Add(Tool):
    defaults = {"model": 1, "load_s": 1.0, "die": ""}
    reload_on = ("model", "load_s")

    def load(self, device):
        time.sleep(self.params.load_s)
        self.added = int(self.params.model)

    def batch_tokens(self, device):
        return 2

    def read(self, job):
        return [int(number) for number in Path(job.input[0]).read_text().split()]

    def tokens(self, item):
        return 1

    def run(self, items):
        if self.params.die and Path(self.params.die).exists():
            Path(self.params.die).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if any(item < 0 for item in items):
            raise ValueError("a number below zero")
        return [10 * item + self.added for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(map(str, results)) + "\\n")
"""
COUNT = 30
SNAKEFILE = """
rule all:
    input: expand("third/{{n}}.txt", n=range({count}))

rule first:
    input: "in/{{n}}.txt"
    output: "first/{{n}}.txt"
    log: "logs/first/{{n}}.log"
    params: model=1, load_s=config.get("load_s", 1.0)
    resources: gpupool_tool="adding.py:Add"
    shell: "gpupool run adding.py:Add --input {{input}} --output {{output}} --param model=1"

rule second:
    input: "first/{{n}}.txt"
    output: temp("second/{{n}}.txt")
    log: "logs/second/{{n}}.log"
    params: model=2, load_s=config.get("load_s", 1.0), die="kill"
    resources: gpupool_tool="adding.py:Add"
    shell: "gpupool run adding.py:Add --input {{input}} --output {{output}} --param model=2"

rule third:
    input: "second/{{n}}.txt"
    output: "third/{{n}}.txt"
    params: model=3, load_s=config.get("load_s", 1.0)
    resources: gpupool_tool="adding.py:Add"
    shell: "gpupool run adding.py:Add --input {{input}} --output {{output}} --param model=3"
"""


def workflow(directory: Path, count: int = COUNT, **more: str) -> Workflow:
    files = {f"in/{n}.txt": f"{n} {n % 7} {n}\n" for n in range(count)}
    return Workflow(directory, SNAKEFILE.format(count=count), {**files, "adding.py": TOOLS, **more})


def right(n: int) -> str:
    """What the last job writes, worked out here."""
    return " ".join(str(1000 * number + 123) for number in (n, n % 7, n)) + "\n"


def computed_by(finished: Finished) -> set[str]:
    return {event["worker"] for event in finished.events("batch_sent")}


def why(finished: Finished, path: str) -> Any:
    """What is recorded of how a file came about."""
    command = [f"{Path(sys.executable).parent}/gpupool", "why", "--json", path]
    done = subprocess.run(
        command, cwd=finished.directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("devices", ["cpu:1", "cuda:0"])
def test_each_job_has_its_own_outputs_log_and_status(
    tmp_path: Path, devices: str
) -> None:  # M1 M5 F2
    flow, simulated = workflow(tmp_path), {"GPUPOOL_SIMULATE": "1x16GiB"}
    finished = flow.run("--gpupool-devices", devices, **simulated)
    assert finished.code == 0, finished.text
    for n in range(COUNT):
        assert finished.read(f"third/{n}.txt") == right(n)
        assert finished.read(f"first/{n}.txt") == f"{10 * n + 1} {10 * (n % 7) + 1} {10 * n + 1}\n"
        for rule in ("first", "second"):
            assert f"3 items, {2 if n >= 7 else 1} distinct" in finished.read(
                f"logs/{rule}/{n}.log"
            )
    assert not list((finished.directory / "second").glob("*"))
    # One process held all three, most requests went through one of them at a time.
    (worker,) = computed_by(finished)
    assert [event["stage"] for event in finished.events("stage_loaded")] == [1, 2]
    assert finished.summary["model_loads"] == 1
    assert finished.summary["jobs_served"] == 3 * COUNT
    assert finished.summary["chains_merged"] < COUNT / 2
    assert len(finished.events("write_sent")) > 2 * COUNT
    # What was computed is told for each job.
    told = why(finished, f"third/{COUNT - 1}.txt")
    assert told["job"]["items"] == 3 and {*told["job"]["came"]} <= {"computed", "duplicate"}
    assert "merged" not in told["batches"][0]
    assert told["batches"][0]["worker"]["id"].endswith(worker)
    again = flow.run("--gpupool-devices", devices, **simulated)
    assert "Nothing to be done" in again.text
    some = [f"third/{n}.txt" for n in range(3)]
    for path in some:
        (finished.directory / path).unlink()
    local = flow.run(*LOCAL, *some)
    assert local.code == 0, local.text
    assert [finished.read(f"third/{n}.txt") for n in range(3)] == [*map(right, range(3))]


def test_a_process_that_dies_on_the_way_costs_time_only(tmp_path: Path) -> None:  # M5 W4
    finished = workflow(tmp_path, kill="").run("--gpupool-devices", "cpu:1")
    assert finished.code == 0, finished.text
    assert finished.summary["worker_crashes"] == 1
    assert [finished.read(f"third/{n}.txt") for n in range(COUNT)] == [*map(right, range(COUNT))]
    done = [event["job"] for event in finished.events("job_done")]
    assert len(done) == len(set(done)) == 3 * COUNT


def test_an_item_that_fails_fails_its_job_alone(tmp_path: Path) -> None:  # W3 M5
    flow = workflow(tmp_path, **{"in/5.txt": "5 -1 5\n"})
    finished = flow.run("--gpupool-devices", "cpu:1", "--keep-going")
    assert finished.code == 1
    assert "a number below zero" in finished.text and "n=5" in finished.text
    good = [n for n in range(COUNT) if n != 5]
    assert [finished.read(f"third/{n}.txt") for n in good] == [*map(right, good)]
    assert not (finished.directory / "first/5.txt").exists()
    assert finished.summary["jobs_failed"] == 1


def test_where_models_load_at_once_requests_go_through_all_of_them(tmp_path: Path) -> None:  # M1
    flow = workflow(tmp_path)
    finished = flow.run("--gpupool-devices", "cpu:1", "--config", "load_s=0")
    assert finished.code == 0, finished.text
    assert [finished.read(f"third/{n}.txt") for n in range(COUNT)] == [*map(right, range(COUNT))]
    assert finished.summary["chains_merged"] > COUNT / 2, "others wait for equal items"
