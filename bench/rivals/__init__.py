"""Who runs against whom: each rival is a function that does one run in a fresh directory.

============================  ==========================================================
:func:`one_process_per_file`  (a) Snakemake's local executor, the rule's own body
:func:`single_script`         (b) a tuned script for all files, no Snakemake
:func:`touch_floor`           (c) an executor that only touches outputs
:func:`gpupool`               (d) the same Snakefile, served by gpupool
============================  ==========================================================
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from measure import Runs, run_timed

HERE = Path(__file__).resolve().parent
EMBED = HERE / "embed.smk"
NOOP = HERE / "noop.smk"
#: The same with an input, params, a log and a benchmark.
USUAL = HERE / "usual.smk"
#: The settings that gpupool ships.
PROFILE = HERE.parents[1] / "workflow" / "profiles" / "default"
#: The local executor at its best: no limit on the rate of jobs, the quicker scheduler.
LOCAL = ["--max-jobs-per-timespan", "1000000/1s", "--scheduler", "greedy"]
#: The floor at its best: with thousands of jobs ready at once, the greedy scheduler's cost is
#: quadratic, while the other's one problem per round is solved at once.
FLOOR = ["--profile", str(PROFILE), "--scheduler", "ilp"]
#: glibc would otherwise give large blocks back to the system after every operation.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
BUDGETS = (512, 1024)


@dataclass(frozen=True)
class Task:
    """What all rivals have to do: embed these files with this model."""

    fasta: Path
    checkpoint: Path
    cores: int

    @property
    def config(self) -> list[str]:
        """Return the Snakefile's configuration."""
        return ["--config", f"fasta={self.fasta}", f"model={self.checkpoint}"]


@dataclass(frozen=True)
class ScriptOptions:
    """One configuration of the script."""

    processes: int
    threads: int
    budget: int

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{processes} x {threads}, {self.budget} tokens a batch"


def script_options(cores: int) -> list[ScriptOptions]:
    """Return the configurations worth trying on that many cores."""
    splits = sorted({(cores, 1), (1, cores), (max(1, cores // 2), min(2, cores))}, reverse=True)
    return [ScriptOptions(p, t, budget) for (p, t), budget in itertools.product(splits, BUDGETS)]


def snakemake(snakefile: Path, executor: str, *options: str) -> list[str]:
    """Return the command that runs a Snakefile under an executor."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    return [*start, "--executor", executor, *options]


def one_process_per_file(runs: Runs, task: Task, directory: Path) -> None:
    """(a) Run the rule's own body under the local executor."""
    command = snakemake(EMBED, "local", "--cores", str(task.cores), *LOCAL, *task.config)
    run_timed(runs, command, directory)


def single_script(runs: Runs, task: Task, directory: Path, options: ScriptOptions) -> None:
    """(b) Run the hand-written script."""
    command = [sys.executable, str(HERE / "single_script.py")]
    command += [str(task.fasta), "embeddings", str(task.checkpoint)]
    command += ["--processes", str(options.processes), "--threads", str(options.threads)]
    run_timed(runs, [*command, "--budget", str(options.budget)], directory, MALLOC)


def touch_floor(
    runs: Runs,
    directory: Path,
    *options: str,
    snakefile: Path = EMBED,
    later: bool = False,
    env: dict[str, str] | None = None,
) -> None:
    """(c) Run Snakemake without any work; ``later``: jobs end on another thread."""
    command = snakemake(snakefile, "touchlater" if later else "touchfloor", *FLOOR, *options)
    paths = [str(HERE / "touchfloor"), *filter(None, [(env or {}).get("PYTHONPATH")])]
    run_timed(runs, command, directory, {**(env or {}), "PYTHONPATH": os.pathsep.join(paths)})


def gpupool(
    runs: Runs,
    directory: Path,
    *options: str,
    snakefile: Path = EMBED,
    env: dict[str, str] | None = None,
) -> None:
    """(d) Run the Snakefile under gpupool as shipped."""
    command = snakemake(snakefile, "gpupool", "--profile", str(PROFILE), *options)
    run_timed(runs, command, directory, env)
