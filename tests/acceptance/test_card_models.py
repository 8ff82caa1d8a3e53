"""Rules that ask for a model of card, on a machine with unlike ones (K2)."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow

UNLIKE = "1x24GiB:RTX 4090,1x80GiB:A100-SXM4-80GB"
SNAKEFILE = """
rule all:
    input: expand("{rule}.txt", rule=["plain", "large", "served", "other", "same", "group"])

rule plain:
    output: "plain.txt"
    resources: gpu_model="a100"
    shell: "echo {resources.gpu_model} $CUDA_VISIBLE_DEVICES > {output}"

rule large:
    output: "large.txt"
    resources: gpu=1, vram_mb="40GB"
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"

rule served:
    input: "in.txt"
    output: "served.txt"
    resources: gpupool_tool="textual.py", gpu_model="RTX-4090", gpu_manufacturer="NVIDIA"
    script: "textual.py"

rule other:
    input: "in.txt"
    output: "other.txt"
    resources: gpupool_tool="textual.py", gpu=1, gpu_model="h100,A100"
    script: "textual.py"

rule same:
    input: "in.txt"
    output: "same.txt"
    resources: gpupool_tool="textual.py", gpu=1, gpu_model="H100|a100"
    script: "textual.py"

rule first:
    output: pipe("first.pipe")
    resources: gpu=1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"

rule group:
    input: "first.pipe"
    output: "group.txt"
    resources: gpu=1, gpu_model="rtx4090"
    shell: "(cat {input}; echo $CUDA_VISIBLE_DEVICES) > {output}"
"""


def test_rules_get_the_cards_that_they_ask_for(tmp_path: Path) -> None:  # K2
    workflow = Workflow(tmp_path, SNAKEFILE, {"in.txt": "one\ntwo\n"})
    run = workflow.run("--cores", "2", GPUPOOL_SIMULATE=UNLIKE)
    assert run.code == 0, run.text
    assert run.read("plain.txt") == "a100 1\n"
    assert run.read("large.txt") == "1\n"
    assert run.read("group.txt") == "1\n0\n"
    assert {run.read(f"{name}.txt") for name in ("served", "other", "same")} == {
        "ONE.plain\nTWO.plain\n"
    }
    # A model for each wish, each on its card: two items for one, two for the others together.
    devices = {e["worker"]: e["devices"] for e in run.events("worker_started") if e["devices"]}
    assert sorted(devices.values()) == [["cuda:0"], ["cuda:1"]], devices
    items = {tuple(devices[e["worker"]]): 0 for e in run.events("batch_done")}
    for event in run.events("batch_done"):
        items[tuple(devices[event["worker"]])] += event["items"]
    assert items == {("cuda:0",): 2, ("cuda:1",): 2}

    outside = "--set-resources", "plain:gpu_model=mi300x", "served:gpu_model=a10", "-F"
    refused = workflow.run(*outside, GPUPOOL_SIMULATE=UNLIKE)
    assert refused.code == 1
    problems = [line for line in refused.text.splitlines() if line.startswith("  - rule")]
    there = "there is only simulated RTX 4090 (cuda:0), simulated A100-SXM4-80GB (cuda:1)"
    assert len(problems) == 2 and all(there in line for line in problems), refused.text
    assert '  - rule plain: asks for gpu_model="mi300x" and gpu=1' in refused.text
    assert "Name one of these in gpu_model" in problems[0]

    # Without GPUs: refused, unless the user says that rules go without.
    assert "there is no GPU" in workflow.run("plain.txt", "-F").text
    without = workflow.run("plain.txt", "-F", "--gpupool-without-gpu", "run")
    assert without.code == 0 and without.read("plain.txt") == "a100\n", without.text
