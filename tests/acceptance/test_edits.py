"""Code that is edited while a run goes on: nobody is left to believe that it was used (C2)."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow
from tests.waiting import eventually

TOOL = """
from pathlib import Path

import helper
from snakemake_executor_gpupool import Tool


class Helped(Tool):
    devices = ("cpu",)

    def load(self, device): ...

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [item + helper.WORD for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results))


Helped.main(snakemake)
"""
SNAKEFILE = """
rule all:
    input: "second"

rule first:
    input: "in.txt"
    output: "first"
    resources: gpupool_tool="script"
    script: "helped.py"

rule wait:
    input: "first"
    output: "waited"
    shell: "cp {input} {output}; touch waiting; while [ ! -e edited ]; do sleep 0.05; done"

rule second:
    input: "waited"
    output: "second"
    resources: gpupool_tool="script"
    script: "helped.py"
"""


def test_an_edit_of_a_tools_code_during_a_run_is_said(tmp_path: Path) -> None:  # C2
    files = {"in.txt": "a", "helped.py": TOOL, "helper.py": "WORD = '1'\n"}
    workflow = Workflow(tmp_path, SNAKEFILE, files)
    run = workflow.start("--cores", "2")
    assert eventually((tmp_path / "waiting").exists, 60)
    (tmp_path / "helper.py").write_text("WORD = '2'\n")
    (tmp_path / "edited").touch()
    text, _ = run.communicate(timeout=100)
    assert run.returncode == 0, text
    said = [line for line in text.splitlines() if "has changed since this run has imported" in line]
    assert len(said) == 1 and "helper.py, of Helped" in said[0], text
    again = workflow.run("--cores", "2", "--forceall")
    assert again.read("second") == "a22" and "has changed since" not in again.text
