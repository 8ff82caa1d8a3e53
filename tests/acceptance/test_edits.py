"""Files that are edited during a run: a result is of what was there, or that is said (C2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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


WEIGHED = """
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Weighed(Tool):
    devices = ("cpu",)
    defaults = {"model": "one", "table": "table", "of": ""}

    def load(self, device):
        self.weight = Path(self.params.model).read_text()

    def read(self, job):
        return [Path(job.input[0]).read_text() + Path(job.params.prefix).read_text()]

    def run(self, items):
        return [item + self.weight + Path(self.params.table).read_text() for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results) + Path(job.params.suffix).read_text())


Weighed.main(snakemake)
"""
CHAIN = """
rule all:
    input: "third", "held"

rule held:
    output: "held"
    priority: 10
    resources: licence=1
    shell: "while [ ! -e edited ]; do sleep 0.05; done; touch {output}"

rule first:
    input: "in.txt"
    output: "first"
    params: model="one", prefix="prefix", suffix="suffix"
    resources: gpupool_tool="script"
    script: "weighed.py"

rule second:
    input: "first"
    output: "second"
    params: model="two", prefix="prefix", suffix="suffix", of=lambda wildcards, input: input[0]
    resources: gpupool_tool="script", licence=1
    script: "weighed.py"

rule third:
    input: "second"
    output: "third"
    params: model="one", prefix="prefix", suffix="suffix"
    resources: gpupool_tool="script"
    script: "weighed.py"
"""
NAMED = ("one", "two", "table", "prefix", "suffix")


@pytest.mark.parametrize("edited", ["nothing", "two", "table", "prefix", "suffix"])
def test_what_ran_ahead_counts_only_while_files_that_params_name_stay(
    tmp_path: Path, edited: str
) -> None:  # M1 M5 C2
    files = {"in.txt": "a", "weighed.py": WEIGHED, **{name: f" {name}-old" for name in NAMED}}
    workflow = Workflow(tmp_path, CHAIN, files)
    run = workflow.start("--cores", "2", "--resources", "licence=1")
    log = tmp_path / ".snakemake/gpupool/latest/events.jsonl"
    assert eventually(lambda: log.exists() and log.read_text().count('"stage_done"') == 3)
    (tmp_path / edited).write_text(f" {edited}-new")
    (tmp_path / "edited").touch()
    text, _ = run.communicate(timeout=100)
    assert run.returncode == 0, text

    def said(before: str, model: str, *, is_new: bool) -> str:
        names = ("prefix", model, "table", "suffix")
        tags = (f" {n}-{'new' if is_new and n == edited else 'old'}" for n in names)
        return before + "".join(tags)

    first = said("a", "one", is_new=False)
    second = said(first, "two", is_new=True)
    found = [(tmp_path / name).read_text() for name in ("first", "second", "third")]
    assert found == [first, second, said(second, "one", is_new=True)]
    summary = json.loads((log.parent / "summary.json").read_text())
    saved = summary["dispatches_saved"]
    assert saved == 2 if edited == "nothing" else saved < 2, "of params that name an input, too"
