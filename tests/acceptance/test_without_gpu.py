"""Rules that ask for GPUs where there is none (D12)."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow
from tests.acceptance.test_plan import planned

SNAKEFILE = """
rule all:
    input: "plain.txt", "named.txt", "served.txt", "wide.txt"

rule plain:
    output: "plain.txt"
    resources: gpu=1
    shell: "echo {resources.gpu} [$CUDA_VISIBLE_DEVICES] > {output}"

rule named:
    output: "named.txt"
    resources: device="cuda:1"
    shell: "touch {output}"

rule served:
    input: "in.txt"
    output: "served.txt"
    resources: gpupool_tool="textual.py", gpu=1
    shell: "gpupool run textual.py --input {input} --output {output}"

rule wide:
    input: "in.txt"
    output: "wide.txt"
    params: gpupool_tool="textual.py"
    resources: device="cudax2"
    shell: "gpupool run textual.py --input {input} --output {output}"
"""


def test_what_asks_for_gpus_where_there_is_none(tmp_path: Path) -> None:  # D12
    workflow = Workflow(tmp_path, SNAKEFILE, {"in.txt": "one\n"})
    refused = workflow.run()
    assert refused.code == 1
    problems = [line for line in refused.text.splitlines() if line.startswith("  - rule")]
    assert {line.split()[2] for line in problems} == {"plain:", "named:", "wide:"}, refused.text
    for way_out in ("--set-resources RULE:gpu=0", "GPUPOOL_SIMULATE", "--gpupool-without-gpu run"):
        assert way_out in refused.text
    assert not list(tmp_path.glob("[pnsw]*.txt"))

    named = "Rules that ask for one: named, plain, wide"
    alone = workflow.run("served.txt")
    assert alone.code == 0 and "Rules that ask for one: served" in alone.text, alone.text

    without = workflow.run("--gpupool-without-gpu", "run")
    assert without.code == 0 and named in without.text, without.text
    assert without.read("plain.txt") == "1 []\n"
    assert without.read("wide.txt") == without.read("served.txt") == "ONE.plain\n"

    # The plan knows the option, too.
    before = {each["rule"]: each["cannot_run"] for each in planned(workflow, "-F")["rules"]}
    way_out = "-F", "--gpupool-without-gpu", "run"
    after = {each["rule"]: each["cannot_run"] for each in planned(workflow, *way_out)["rules"]}
    assert {name for name, why in before.items() if why} == {"plain", "named", "wide"}
    assert set(after) == set(before) and not any(after.values())
