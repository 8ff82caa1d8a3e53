"""Workers that one process has imported for compute what the local executor does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, Workflow, site_packages

SNAKEFILE = """
rule all:
    input: expand("{n}.out", n=range(8))

rule embed:
    input: "{n}.in"
    output: "{n}.out"
    params: gpupool_tool="script"
    script: "tool.py"
"""
#: Who imports it leaves a line; what was set there is everybody's own afterwards.
HEAVY = """
import os
print("IMPORTED", os.readlink("/proc/self"))
counts = []
"""
#: It takes so long for an item that a second worker is worth its start.
TOOL = """
import os, random, time
from pathlib import Path
import heavy
from snakemake_executor_gpupool import Tool

class Embed(Tool):
    devices = ("cpu",)
    def read(self, job):
        yield open(job.input[0]).read()
    def batch_tokens(self, device):
        return 1
    def run(self, items):
        place = os.environ.get("TOGETHER")
        if place and not heavy.counts:
            Path(place, f"{os.getpid()} {random.random()}").touch()
        if place:
            time.sleep(1)
        heavy.counts.append(os.getcwd())
        return [item.upper() for item in items]
    def write(self, job, results):
        open(job.output[0], "w").write(results[0])

if "snakemake" in globals():
    Embed.main(snakemake)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="Snakemake needs the only core")
def test_forked_workers_compute_what_the_local_executor_does(tmp_path: Path) -> None:
    site = site_packages(tmp_path, heavy=HEAVY)
    files = {f"{number}.in": f"Text {number}" for number in range(8)}
    flow = Workflow(tmp_path / "flow", SNAKEFILE, {**files, "tool.py": TOOL})
    outputs = [f"{number}.out" for number in range(8)]
    done = flow.run(*LOCAL, PYTHONPATH=str(site))
    assert done.code == 0, done.text
    expected = [done.read(name) for name in outputs]

    def printed() -> set[str]:
        """Return what the newest run's processes have printed."""
        logs = (flow.directory / ".snakemake/gpupool/latest").rglob("*.log")
        return {line for log in logs for line in log.read_text(errors="replace").splitlines()}

    def run(name: str) -> tuple[set[int], set[int]]:
        """Run anew; return which workers are there, and which have been forked."""
        together = tmp_path / name
        together.mkdir()
        options = ("--forceall", "--gpupool-devices", "cpu:2")
        done = flow.run(*options, PYTHONPATH=str(site), TOGETHER=str(together))
        assert done.code == 0, done.text
        assert [done.read(output) for output in outputs] == expected
        words = [each.name.split() for each in together.iterdir()]
        assert len({chance for _, chance in words}) == len(words) == 2
        return {int(pid) for pid, _ in words}, {e["pid"] for e in done.events("worker_forked")}

    _, forked = run("first")
    assert not forked
    workers, forked = run("second")
    assert workers == forked and len(forked) == 2
    assert not {f"IMPORTED {pid}" for pid in workers} & printed(), "it was imported for them"
    heavy = site / "heavy.py"
    heavy.write_text(HEAVY + "kept = open('/etc/passwd')\n")
    workers, forked = run("refused")
    assert workers == forked, "one process has started them, and each has imported for itself"
    assert {f"IMPORTED {pid}" for pid in workers} <= printed()
