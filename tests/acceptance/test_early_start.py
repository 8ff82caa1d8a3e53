"""The second run of a workflow finds its processes started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.running import Workflow, site_packages

SNAKEFILE = """
kept_open = open("left-open.txt", "w")
kept_open.write("written")

rule all:
    input: expand("{n}.out", n=range(3))

rule embed:
    input: "{n}.in"
    output: "{n}.out"
    params: gpupool_tool="script"
    script: "tool.py"
"""
#: Who imports it leaves a line: its number, and when it was started.
HEAVY = """
import os, time
with open("/proc/self/stat") as stat, open("/proc/uptime") as up:
    ticks = int(stat.read().rpartition(")")[2].split()[19])
    age_s = float(up.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()} {time.time() - age_s}\\n")
"""
TOOL = """
from snakemake_executor_gpupool import Tool

class Embed(Tool):
    devices = ("cpu",)
    def read(self, job):
        yield open(job.input[0]).read()
    def load(self, device):
        import heavy
    def run(self, items):
        return [item.{how}() for item in items]
    def write(self, job, results):
        open(job.output[0], "w").write(results[0])

Embed.main(snakemake)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="Snakemake needs the only core")
def test_a_second_run_finds_its_process_started_and_edited_code_is_run(tmp_path: Path) -> None:
    site = site_packages(tmp_path, heavy=HEAVY)
    files = {f"{number}.in": f"Text {number}" for number in range(3)}
    flow = Workflow(tmp_path / "flow", SNAKEFILE, {**files, "tool.py": TOOL.format(how="upper")})
    imports = tmp_path / "imports"
    env = {"PYTHONPATH": str(site), "IMPORTS": str(imports)}
    workers: list[int] = []

    def run(expected: str, *options: str) -> list[tuple[int, float]]:
        """Run anew; return who has imported, and when it was started since the pool opened."""
        before = len(imports.read_text().splitlines()) if imports.exists() else 0
        done = flow.run("--forceall", "--gpupool-devices", "cpu:1", *options, **env)
        assert done.code == 0, done.text
        assert [done.read(f"{number}.out") for number in range(3)] == [
            f"{expected} {number}" for number in range(3)
        ]
        assert done.read("left-open.txt") == "written", "what nobody closed is written all the same"
        opened_s = done.events("run_started")[0]["time_s"]
        workers[:] = [e["pid"] for e in done.events("worker_started") if e["devices"]]
        lines = [line.split() for line in imports.read_text().splitlines()[before:]]
        return [(int(pid), float(time_s) - opened_s) for pid, time_s in lines]

    [(pid, first_s)] = run("TEXT")
    assert [pid] == workers and first_s > 0
    [(pid, second_s)] = run("TEXT")
    assert [pid] == workers and second_s < 0, "before there was a pool"
    (flow.directory / "tool.py").write_text(TOOL.format(how="lower"))
    early, again = run("text")
    assert early[0] == again[0] == workers[0], "the process has begun anew"
    assert early[1] < 0
    before = imports.read_text()
    done = flow.run("--forceall", "--dry-run", **env)
    assert done.code == 0 and imports.read_text() == before, "nothing is started for no run"
    [(_, off_s)] = run("text", "--gpupool-early-start", "off")
    assert off_s > 0
