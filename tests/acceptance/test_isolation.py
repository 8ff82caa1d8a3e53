"""What a job sees is what it was leased, or nothing, whatever way it takes (S7, D3)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.running import Workflow

NAMES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
NOTHING = ["", "-1", ""]
SEES = f"""
import os, sys
names = {NAMES!r}
line = "|".join(os.environ.get(name, "unset") for name in names)
path = sys.argv[1] if len(sys.argv) > 1 else snakemake.output[0]
open(path, "a").write(line + "\\n")
"""
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "only",
            "metadata": {},
            "outputs": [],
            "source": [SEES.replace("sys.argv[1] if len(sys.argv) > 1 else ", "")],
        }
    ],
    "metadata": {"language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
FILES = {
    "sees.py": SEES,
    "sees.ipynb": json.dumps(NOTEBOOK),
    "wrapper/wrapper.py": SEES,
    "wrapper/environment.yaml": "channels: []\ndependencies: []\n",
}

CPU_WAYS = """
import os
envvars: "CUDA_VISIBLE_DEVICES"
localrules: local_shell, local_gpu, local_tool
WAYS = ["shell", "script", "run", "notebook", "wrapper", "shadow", "gpu0", "cpu", "local_shell",
    "local_run", "local_gpu", "local_tool", "handed", "piped", "client"]

rule all:
    input: expand("{way}.txt", way=WAYS), "leased.txt", "leased_run.txt"

rule shell:
    output: "shell.txt"
    shell: "python sees.py {output}"
rule script:
    output: "script.txt"
    script: "sees.py"
rule run:
    output: "run.txt"
    run: shell("python sees.py {output}")
rule notebook:
    output: "notebook.txt"
    notebook: "sees.ipynb"
rule wrapper:
    output: "wrapper.txt"
    wrapper: "file:wrapper"
rule shadow:
    input: "sees.py"
    output: "shadow.txt"
    shadow: "minimal"
    shell: "python sees.py {output}"
rule gpu0:
    output: "gpu0.txt"
    resources: gpu=0
    shell: "python sees.py {output}"
rule cpu:
    output: "cpu.txt"
    resources: device="cpu", gpu=2
    shell: "python sees.py {output}"
rule local_shell:
    output: "local_shell.txt"
    shell: "python sees.py {output}"
rule local_run:
    output: "local_run.txt"
    localrule: True
    run: shell("python sees.py {output}")
rule local_gpu:
    output: "local_gpu.txt"
    resources: gpu=1
    shell: "python sees.py {output}"
rule local_tool:
    output: "local_tool.txt"
    params: gpupool_tool="textual.py:Textual"
    shell: "python sees.py {output}"
rule handed:
    output: "handed.txt"
    handover: True
    threads: 1
    resources: device="cuda:1"
    shell: "python sees.py {output}"
rule producer:
    output: pipe("stream")
    shell: "python sees.py {output}"
rule piped:
    input: "stream"
    output: "piped.txt"
    shell: "cat {input} > {output}; python sees.py {output}"
rule server:
    output: service("ready")
    shell: "touch {output}; sleep 600"
rule client:
    input: "ready"
    output: "client.txt"
    shell: "python sees.py {output}"
rule leased:
    output: "leased.txt"
    resources: gpu=1
    shell: "python sees.py {output}"
rule leased_run:
    output: "leased_run.txt"
    resources: device="cuda:2,3"
    run: shell("python sees.py {output}")
"""


def seen(directory: Path, name: str) -> list[list[str]]:
    """What was seen by those who wrote a file: a line each."""
    return [line.split("|") for line in (directory / name).read_text().splitlines()]


def test_jobs_without_a_lease_see_nothing(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, CPU_WAYS, FILES)
    # The user's own variables must not come through either.
    shown = dict.fromkeys(NAMES, "0,1,2,3")
    done = workflow.run("--cores", "4", GPUPOOL_SIMULATE="4x80GiB", **shown)
    assert done.code == 0, done.text
    leased = {path.stem: seen(tmp_path, path.name) for path in tmp_path.glob("leased*.txt")}
    # ROCm counts the second within the third: that one stays as the user has set it.
    assert leased["leased_run"] == [["2,3", "2,3", "0,1,2,3"]]
    ((card, hip, _),) = leased["leased"]
    assert card == hip and card in {"0", "1", "2", "3"}
    others = {path.stem for path in tmp_path.glob("*.txt")} - set(leased)
    assert len(others) == 15
    for name in others:
        lines = seen(tmp_path, f"{name}.txt")
        assert lines and all(line == NOTHING for line in lines), (name, lines)
    for rule in ("local_gpu", "local_tool", "handed"):
        assert f"rule {rule} asks for" in done.text
