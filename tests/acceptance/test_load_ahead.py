"""A rule's model is loaded while the rules before it still run, though it had no job yet."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow

#: ``before`` goes on until all models are there. What two of them have seen is then changed.
SNAKEFILE = """
rule all:
    input: "named.up", "hidden.up", "optional.up"

rule before:
    output: "ready.txt"
    shell:
        "for n in $(seq 600); do sleep 0.1;"
        " [ $(grep -c model_loaded .snakemake/gpupool/latest/events.jsonl) -ge 3 ] && break;"
        " done; echo new > hidden.txt; touch optional.txt; echo word > {output}"

rule named:
    input: "ready.txt"
    output: "{name}.up"
    wildcard_constraints: name="named"
    resources: gpupool_tool="textual.py:Textual"
    params: model=lambda wildcards: f"of.{wildcards.name}"
    script: "textual.py"

rule hidden:
    input: "ready.txt"
    output: "hidden.up"
    resources: gpupool_tool="reading.py:Reading"
    script: "reading.py"

rule optional:
    input: "ready.txt"
    output: "optional.up"
    resources: gpupool_tool="optional.py:Optional"
    script: "optional.py"
"""
#: Its weights are a file that no param names.
TOOL = """
from textual import Textual

class Reading(Textual):
    def load(self, device):
        with open("hidden.txt") as file:
            self.loaded = file.read().strip()

if "snakemake" in globals():
    Reading.main(snakemake)
"""


#: It takes other weights if there are some, which it finds out without opening them.
LOOKING = """
import os
from textual import Textual

class Optional(Textual):
    def load(self, device):
        self.loaded = "new" if os.path.exists("optional.txt") else "none"

if "snakemake" in globals():
    Optional.main(snakemake)
"""


def test_models_are_loaded_before_their_rules_are_ready(tmp_path: Path) -> None:  # F1
    files = {"reading.py": TOOL, "optional.py": LOOKING, "hidden.txt": "stale"}
    done = Workflow(tmp_path, SNAKEFILE, files).run(GPUPOOL_SIMULATE="3x16GiB")
    assert done.code == 0, done.text
    assert done.read("named.up") == "WORD.of.named\n"
    assert done.read("hidden.up") == "WORD.new\n", "not what was there when it was loaded ahead"
    assert done.read("optional.up") == "WORD.new\n"

    loaded = [(event["model"], event["time_s"]) for event in done.events("model_loaded")]
    submitted_s = min(event["time_s"] for event in done.events("job_submitted"))
    by_model: dict[str, list[bool]] = {}
    for model, time_s in loaded:
        by_model.setdefault(model.partition(" ")[0], []).append(time_s < submitted_s)
    again = [True, False]
    assert by_model == {"Textual": [True], "Reading": again, "Optional": again}
    assert done.summary["worker_crashes"] == 0
