"""Limits of plain rules: time while a device is held, memory of the machine (K3)."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow

SNAKEFILE = """
from snakemake_executor_gpupool.frontends.snakemake import translate

translate.MINUTE_S = 6.0  # of runtime
rule all:
    input: "slow.txt", "again.txt", "quick.txt", "large.txt", "cpu.txt", "m1.txt", "m2.txt"

rule all_at_once:  # Snakemake makes up 1000 MB for each
    input: expand("s{n}.txt", n=range(3))

rule slow:
    output: "slow.txt"
    log: "slow.log"
    resources: gpu=1, runtime=1
    shell: "echo half > {output}; trap 'touch ended; exit 3' TERM; sleep 60"

rule again:
    output: "again.txt"
    retries: 1
    resources: gpu=1, runtime=lambda wildcards, attempt: 1 if attempt == 1 else 60
    shell: "echo x >> tries; [ $(wc -l < tries) = 2 ] || sleep 60; touch {output}"

rule quick:
    output: "quick.txt"
    resources: gpu=1, runtime=5
    shell: "touch {output}"

rule large:
    output: "large.txt"
    resources: mem_mb=2001
    shell: "touch {output}"

rule without_device:
    output: "cpu.txt"
    resources: runtime=1
    shell: "sleep 7; touch {output}"

rule silent:
    output: "s{n}.txt"
    priority: 10
    shell:
        "touch here.{wildcards.n}; for i in $(seq 200); do [ $(ls here.* | wc -l) = 3 ] && break; "
        "sleep 0.05; done; [ $(ls here.* | wc -l) = 3 ]; touch {output}"

rule memory:
    output: "m{n}.txt"
    resources: mem_mb=1500
    shell: "date +%s.%N > {output}; sleep 1; date +%s.%N >> {output}"
"""


def test_limits_are_kept_and_said(tmp_path: Path) -> None:  # K3
    workflow = Workflow(tmp_path, SNAKEFILE)
    options = ("--gpupool-memory", "2GB", "--cores", "4", "--keep-going")
    done = workflow.run(*options, GPUPOOL_SIMULATE="2")
    assert done.code == 1
    left = {path.name for path in tmp_path.glob("*.txt")}
    assert left == {"again.txt", "quick.txt", "cpu.txt", "m1.txt", "m2.txt"}, done.text
    assert (tmp_path / "ended").exists()
    assert "it took longer than its limit, runtime=" in done.read("slow.log")
    assert "asks for mem_mb=2001, but its jobs may take 2000 MB" in done.text
    (first, second) = sorted(tuple(map(float, done.read(f"m{n}.txt").split())) for n in (1, 2))
    assert first[1] <= second[0]

    done = workflow.run("all_at_once", *options, GPUPOOL_SIMULATE="1")
    assert done.code == 0, done.text

    without = ("--gpupool-memory", "off", "--gpupool-runtime-limits", "off", "--cores", "2")
    done = workflow.run("large.txt", *without, GPUPOOL_SIMULATE="1")
    assert done.code == 0, done.text
