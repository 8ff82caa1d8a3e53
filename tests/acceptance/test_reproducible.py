"""Reproducible runs under Snakemake: served, merged, one by one, and cold, to the bit (R5)."""

from __future__ import annotations

import random

import pytest

from tests.acceptance.running import LOCAL, TOOLS, Finished, Workflow
from tests.tools.permutations import words

SNAKEFILE = """
SAMPLES = [f"s{n}" for n in range(10)]

rule all:
    input: expand("bits/{s}.txt", s=SAMPLES)

rule spell:
    input: "in/{s}.txt"
    output: "words/{s}.txt"
    params: model=1
    resources: gpupool_tool="spelled.py:Spelled"
    script: "spelled.py"

rule attend:
    input: "words/{s}.txt"
    output: "bits/{s}.txt"
    params: model=2
    resources: gpupool_tool="attending.py:Attending"
    shell: "gpupool run attending.py:Attending -i {input} -o {output} -p model={params.model}"

# Not served: under any executor it is cold, and follows the run's mode.
rule alone:
    input: "words/{s}.txt"
    output: "alone/{s}.txt"
    shell: "gpupool run attending.py:Attending -i {input} -o {output} -p model=2"
"""


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    text = (TOOLS / "attending.py").read_text()
    # A library that reads its settings while it is loaded, before the last line sees the mode.
    spelled = f"import numpy\n{text}\n\nSpelled.main(snakemake)\n"
    spelled = spelled.replace("from __future__ import annotations\n", "")
    rng = random.Random(4)
    files = {f"in/s{n}.txt": "\n".join(words(rng.randint(1, 6), rng)) for n in range(10)}
    files |= {"attending.py": text, "spelled.py": spelled}
    return Workflow(tmp_path_factory.mktemp("flow"), SNAKEFILE, files)


def outputs(flow: Workflow, done: Finished) -> dict[str, str]:
    assert done.code == 0, done.text
    paths = [path for name in ("words", "bits") for path in (flow.directory / name).iterdir()]
    return {str(path.relative_to(flow.directory)): path.read_text() for path in paths}


def again(flow: Workflow, *arguments: str, **env: str) -> dict[str, str]:
    return outputs(flow, flow.run("--forceall", *arguments, **env))


def test_served_merged_and_cold_outputs_are_the_same(workflow: Workflow) -> None:  # R5
    same = ("--gpupool-reproducible",)
    devices = ("--gpupool-devices", "cpu:2")
    done = workflow.run(*same, *devices, "bits/s0.txt", "alone/s0.txt")  # it alone is short
    assert done.code == 0 and done.summary["chains_merged"], done.text
    merged = outputs(workflow, workflow.run(*same, *devices))
    assert done.read("alone/s0.txt") == merged["bits/s0.txt"]
    apart = again(workflow, *same, "--gpupool-devices", "cpu:1", "--gpupool-merge", "off")
    assert apart == merged
    cold = ("bits/s0.txt", "words/s1.txt")
    again(workflow, *LOCAL, *cold, GPUPOOL_REPRODUCIBLE="1", GPUPOOL_DEVICE="cpu")
    for path in ("words/s0.txt", *cold):
        assert (workflow.directory / path).read_text() == merged[path]


def test_a_run_refuses_what_cannot_follow(workflow: Workflow) -> None:
    rule = ("--set-resources", "spell:gpupool_tool=textual.py:Textual")
    target = ("--forceall", "words/s0.txt", *rule)
    done = workflow.run("--gpupool-reproducible", *target)
    assert done.code and 'Add reproducible = "alone"' in done.text
    done = workflow.run("--gpupool-seed", "-3", *target)
    assert done.code and "the seed is '-3'" in done.text
