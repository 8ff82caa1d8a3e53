"""Jobs that run in a Snakemake of their own, and Snakemake's API instead of its command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.running import Finished, Workflow

SNAKEFILE = """
rule all:
    input: "tries.txt", "runs.txt", "old.txt", "olds", "threads.txt", "all_threads.txt", "b.txt"

rule tries:
    output: "tries.txt"
    retries: 2
    resources: gpu=lambda wildcards, attempt: attempt
    shell: "echo {resources.gpu} >> tried; echo $CUDA_VISIBLE_DEVICES >> seen; false"

rule runs:
    output: "runs.txt"
    retries: 1
    run:
        with open("ran", "a") as file:
            file.write("x")
        raise ValueError("never")

rule update:
    output: update("old.txt"), update(directory("olds"))
    retries: 1
    resources: gpu=1
    shell: "echo new >> {output[0]}; echo new > {output[1]}/new; false"

rule grows:
    output: update("b.txt")
    resources: gpu=1
    shell: "echo new >> {output}"

rule threads:
    output: "threads.txt"
    threads: 4096
    params: threads=lambda wildcards, threads: threads
    shell: "echo {threads} {params.threads} $(nproc) > {output}"

rule all_threads:
    output: "all_threads.txt"
    handover: True
    shell: "echo {threads} $(nproc) > {output}"
"""

CALL = """
from pathlib import Path
from snakemake.api import *

with SnakemakeApi(OutputSettings(show_failed_logs=True)) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(nodes=100), snakefile=Path("Snakefile")
    )
    try:
        workflow.dag(DAGSettings(forceall=True)).execute_workflow(
            executor="gpupool", execution_settings=ExecutionSettings(keep_going=True, lock=False)
        )
    except Exception as error:
        api.print_exception(error)
        raise SystemExit(1)
"""


def test_a_child_does_not_repeat_what_its_parent_decides(tmp_path: Path) -> None:  # S4 S6
    workflow = Workflow(
        tmp_path,
        SNAKEFILE,
        {"old.txt": "old\n", "olds/old": "old\n", "b.txt": "old\n", "call.py": CALL},
    )
    done = subprocess.run(
        [sys.executable, "call.py"],
        cwd=tmp_path,
        env=workflow.environment(GPUPOOL_SIMULATE="4"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    run = Finished(tmp_path, done.returncode, done.stdout + done.stderr)
    assert run.code == 1, run.text

    # As often as the rule says, each time with the devices that this try asks for.
    assert [line.split()[0] for line in run.read("tried").splitlines()] == ["1", "2", "3"]
    assert [len(line.split(",")) for line in run.read("seen").splitlines()] == [1, 2, 3]
    assert run.read("ran") == "xx"

    # What a failed job was to update is what it was.
    assert run.read("old.txt") == "old\n"
    assert [path.name for path in (tmp_path / "olds").iterdir()] == ["old"]
    assert run.text.count("Error in rule update") >= 2
    assert run.read("b.txt") == "old\nnew\n"
    assert not list((tmp_path / ".snakemake").glob("gpupool-update-*"))

    # Nobody said how many cores there are: all, and a rule that claims more gets these.
    claimed, seen, cores = run.read("threads.txt").split()
    assert claimed == seen == cores
    claimed, cores = run.read("all_threads.txt").split()
    assert claimed == cores
    again = workflow.run("--dry-run", "threads.txt", "all_threads.txt")
    assert "Nothing to be done" in again.text, again.text
