"""What a tool may see, and what results that are kept depend on, served and local (C1, C2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, Finished, Workflow

TOOL = """
from pathlib import Path
from snakemake_executor_gpupool import Tool
from helper import shout


class Fold(Tool):
    {declarations}

    def load(self, device):
        self.weights = Path(self.params.checkpoint).read_text().strip()

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [shout(f"{{item}}-{{self.weights}}-{{self.params.scale}}") for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("\\n".join(results))


class Opened(Tool):
    def read(self, job):
        return [job.input[0]]

    def run(self, items):
        return [Path(item).read_text() for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(results[0])
"""
DECLARED = 'reload_on = ("model", "checkpoint")\n    defaults = {"scale": 1.0}'
SNAKEFILE = """
rule all:
    input:
        expand("out/{sample}.{fold}.{scale}", sample=["a", "b"], fold=(1, 2, 3), scale=(1, 5)),
        "opened.txt", "again.txt"

rule fold:
    input: "in/{sample}.txt"
    output: "out/{sample}.{fold}.{scale}"
    params: checkpoint="models/fold{fold}.txt", scale=lambda wildcards: int(wildcards.scale)
    resources: gpupool_tool="tool.py:Fold"
    shell:
        "gpupool run tool.py:Fold --input {input} --output {output}"
        " --param checkpoint={params.checkpoint} --param scale={params.scale}"

rule opened:
    input: "changing.txt"
    output: "opened.txt"
    resources: gpupool_tool="tool.py:Opened"
    shell: "gpupool run tool.py:Opened --input {input} --output {output}"

# Changes a file that two jobs name, between them.
rule change:
    input: "opened.txt"
    output: "changed.flag"
    shell: "printf two > changing.txt && touch -r helper.py changing.txt && touch {output}"

rule again:
    input: ancient("changing.txt"), "changed.flag"
    output: "again.txt"
    resources: gpupool_tool="tool.py:Opened"
    shell: "gpupool run tool.py:Opened --input {input} --output {output}"
"""
HELPER = "def shout(text):\n    return text.upper()\n"
FILES = {
    "in/a.txt": "x y",
    "in/b.txt": "x z",
    "models/fold1.txt": "w1",
    "models/fold2.txt": "w2",
    "models/fold3.txt": "w3",
    "helper.py": HELPER,
}


def workflow_in(directory: Path, declarations: str = DECLARED) -> Workflow:
    tool = TOOL.replace("{declarations}", declarations).replace("{{", "{").replace("}}", "}")
    return Workflow(directory, SNAKEFILE, {**FILES, "tool.py": tool, "changing.txt": "one"})


def outputs(run: Finished) -> dict[str, str]:
    assert run.code == 0, run.text
    paths = [*Path(run.directory, "out").iterdir(), run.directory / "opened.txt"]
    paths.append(run.directory / "again.txt")
    return {path.name: path.read_text() for path in paths}


def test_each_job_gets_its_own_and_no_stale_result(tmp_path: Path) -> None:  # C1 C2 T5
    workflow = workflow_in(tmp_path / "ours")
    cache = str(tmp_path / "kept")
    served = workflow.run("--gpupool-cache", cache)
    found = outputs(served)
    for sample, words in (("a", "XY"), ("b", "XZ")):
        for fold in (1, 2, 3):
            for scale in (1, 5):
                expected = "\n".join(f"{word}-W{fold}-{scale}" for word in words)
                assert found[f"{sample}.{fold}.{scale}"] == expected
    assert (found["opened.txt"], found["again.txt"]) == ("one", "two")
    assert found == outputs(workflow_in(tmp_path / "local").run(*LOCAL))
    assert served.summary["model_loads"] == 4

    # The same again: everything is kept. Then with another helper: nothing of it is.
    forced = ("--forcerun", "fold", "opened", "--gpupool-cache", cache)
    (workflow.directory / "changing.txt").write_text("one")
    assert outputs(workflow.run(*forced)) == found
    again = workflow.run(*forced)
    # Since then changing.txt says "two", which has been kept, too.
    assert outputs(again)["opened.txt"] == "two"
    assert again.summary["model_loads"] == 0

    workflow.directory.joinpath("helper.py").write_text(HELPER.replace("upper", "lower"))
    workflow.directory.joinpath("changing.txt").write_text("six")
    changed = outputs(workflow.run(*forced))
    assert changed["a.3.5"] == "x-w3-5\ny-w3-5"
    assert (changed["opened.txt"], changed["again.txt"]) == ("six", "two")


@pytest.mark.parametrize(
    ("declarations", "line"),
    [
        ("", 'reload_on = ("model", "checkpoint")'),
        (
            'reload_on = ("checkpoint",)\n    defaults = {"checkpoint": ""}',
            'defaults = {..., "scale": None}',
        ),
    ],
)
def test_what_is_not_declared_is_refused_served_and_cold(  # C1 T5
    tmp_path: Path, declarations: str, line: str
) -> None:
    workflow = workflow_in(tmp_path, declarations)
    for executor in ((), LOCAL):
        run = workflow.run(*executor, "--keep-going", "out/a.1.1", "out/a.2.5")
        assert run.code == 1
        assert line in run.text, run.text
        assert "Traceback" not in run.text
        assert not (tmp_path / "out" / "a.1.1").exists()
