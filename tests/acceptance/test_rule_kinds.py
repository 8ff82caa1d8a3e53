"""Rules that know nothing of gpupool run as under the local executor (S6)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, Workflow

KINDS = """
rule all:
    input:
        "shell.txt", "run.txt", "script.txt", "shadow.txt", "piped.txt", "served.txt",
        "notebook.txt", "group.txt", "threads.txt", "wrapper.txt", "wide.txt", "folder", "touched",

rule by_shell:
    output: "shell.txt"
    log: "logs/shell.log"
    shell: "echo shell > {output} 2> {log}"

rule by_run:
    output: "run.txt"
    params: word="run"
    run:
        with open(output[0], "w") as file:
            file.write(params.word)

rule by_script:
    output: "script.txt"
    script: "write.py"

rule by_notebook:
    output: "notebook.txt"
    notebook: "write.ipynb"

rule by_wrapper:
    output: "wrapper.txt"
    wrapper: "file:wrapper"

rule in_shadow:
    input: "shell.txt"
    output: "shadow.txt"
    shadow: "minimal"
    shell: "cat {input} > {output}; touch litter.tmp"

rule producer:
    output: pipe("stream")
    shell: "printf 'a\\nb\\n' > {output}"

rule consumer:
    input: "stream"
    output: "piped.txt"
    shell: "cat {input} > {output}"

rule server:
    output: service("ready")
    shell: "touch {output}; sleep 600"

rule client:
    input: "ready"
    output: "served.txt"
    shell: "echo served > {output}"

rule first:
    output: temp("middle.txt")
    group: "g"
    shell: "echo middle > {output}"

rule second:
    input: "middle.txt"
    output: "group.txt"
    group: "g"
    shell: "cat {input} > {output}"

rule with_threads:
    output: "threads.txt"
    threads: 2
    shell: "echo {threads} $OMP_NUM_THREADS > {output}"

rule too_wide:
    output: "wide.txt"
    threads: 64
    shell: "echo {threads} > {output}"

rule folder:
    output: directory("folder")
    shell: "mkdir {output}; echo x > {output}/x"

rule touched:
    output: touch("touched")
    shell: "true"
"""

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "only",
            "metadata": {},
            "outputs": [],
            "source": ["open(snakemake.output[0], 'w').write('notebook')"],
        }
    ],
    "metadata": {"language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}

FILES = {
    "write.py": "open(snakemake.output[0], 'w').write('script')\n",
    "write.ipynb": json.dumps(NOTEBOOK),
    "wrapper/wrapper.py": "open(snakemake.output[0], 'w').write('wrapper')\n",
    "wrapper/environment.yaml": "channels: []\ndependencies: []\n",
}


def results(directory: Path) -> dict[str, str]:
    """Every file of a workflow's directory that is not Snakemake's own."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".snakemake" not in path.parts
    }


@pytest.mark.timeout(180)
def test_every_kind_of_rule_gives_what_it_gives_locally(tmp_path: Path) -> None:  # S6
    workflow = Workflow(tmp_path / "ours", KINDS, FILES)
    ours = workflow.run("--cores", "2")
    local = Workflow(tmp_path / "local", KINDS, FILES).run(*LOCAL)
    assert (ours.code, local.code) == (0, 0), ours.text + local.text
    assert results(tmp_path / "ours") == results(tmp_path / "local")
    again = workflow.run("--cores", "2", "--dry-run")
    assert "Nothing to be done" in again.text


CROWD = """
rule all:
    input: expand("out/{i}.txt", i=range(12))

rule one:
    output: "out/{i}.txt"
    threads: lambda wildcards: 1 + int(wildcards.i) % 2
    script: "busy.py"
"""

BUSY = """
import time
start = time.time()
time.sleep(0.3)
with open(snakemake.output[0], "w") as file:
    file.write(f"{start} {time.time()} {snakemake.threads}")
"""


def most_at_once(intervals: list[tuple[float, float, int]]) -> int:
    """The largest sum of threads that ran at one time."""
    starts = [start for start, _, _ in intervals]
    return max(
        sum(threads for start, end, threads in intervals if start <= now < end) for now in starts
    )


def test_the_cpu_budget_is_kept_and_used(tmp_path: Path) -> None:  # S6
    run = Workflow(tmp_path, CROWD, {"busy.py": BUSY}).run("--cores", "3")
    assert run.code == 0, run.text
    intervals = []
    for number in range(12):
        start, end, threads = run.read(f"out/{number}.txt").split()
        intervals.append((float(start), float(end), int(threads)))
    assert 2 <= most_at_once(intervals) <= 3


def test_a_failing_cpu_rule_fails_as_it_would_locally(tmp_path: Path) -> None:  # S6
    snakefile = """
        rule all:
            input: "good.txt", "bad.txt"

        rule good:
            output: "good.txt"
            shell: "echo good > {output}"

        rule bad:
            output: "bad.txt"
            log: "bad.log"
            shell: "echo half > {output}; echo told >&2 2> {log}; exit 3"
    """
    run = Workflow(tmp_path, snakefile).run("--keep-going")
    assert run.code == 1
    assert "rule bad" in run.text and "exited with non-zero exit code" in run.text
    assert (tmp_path / "good.txt").exists() and not (tmp_path / "bad.txt").exists()
