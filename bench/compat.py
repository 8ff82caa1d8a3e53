"""Runs Snakemake's own test workflows under gpupool and under the local executor, and compares.

    python bench/compat.py SNAKEMAKE_CHECKOUT/tests [--sample N] [--only NAME ...] [--out FILE]

Taken are the directories ``test_*`` with a Snakefile that needs nothing from outside (no conda,
container, network or language but Python and the shell). Each is copied twice and run with two
cores, for its default target, whatever Snakemake's suite asks of it. The same exit code and the
same files with the same contents are agreement. docs/compatibility.md explains the differences.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

EXECUTORS = {
    "local": ("--executor", "local", "--cores", "2"),
    "gpupool": ("--executor", "gpupool", "--jobs", "unlimited", "--cores", "2"),
}
#: What a Snakefile needs that a machine without network or further software lacks.
FROM_OUTSIDE = re.compile(
    r"conda:|container(ized)?:|singularity:|envmodules:|https?://|storage|remote|wrapper:|report:"
    r"|\.R\b|\.Rmd\b|\.jl\b|\.rs\b|\.ipynb|Rscript|cwl:|ftp:|s3:|gs:|git\+|github\(|gitlab\(|pep",
    re.IGNORECASE,
)
#: What differs from run to run by itself.
OF_A_RUN = re.compile(r"(^|/)(\.snakemake|__pycache__|benchmarks?)(/|$)|\.(pyc|benchmark)")


@dataclass
class Outcome:
    """How one workflow ended under one executor."""

    code: int | None
    files: dict[str, bytes] = field(repr=False)
    text: str = field(repr=False)


@dataclass
class Comparison:
    """One workflow under both."""

    name: str
    codes: dict[str, int | None]
    differences: list[str]
    last_words: dict[str, str]


def eligible(tests: Path) -> list[Path]:
    """Return the test workflows that need nothing from outside."""
    return [
        directory
        for directory in sorted(tests.glob("test_*"))
        if (directory / "Snakefile").is_file() and not FROM_OUTSIDE.search(sources(directory))
    ]


def sources(directory: Path) -> str:
    """Return the text of all files of a workflow that may hold rules."""
    kinds = ("Snakefile*", "*.smk", "*.snakefile", "*.rules")
    paths = [path for kind in kinds for path in directory.rglob(kind) if path.is_file()]
    return "\n".join(path.read_text(errors="replace") for path in paths)


def run(workflow: Path, executor: str, limit_s: float) -> Outcome:
    """Run a copy of a workflow to its end; code None: it was ended when its time was up."""
    with tempfile.TemporaryDirectory(prefix="compat-") as scratch:
        directory = Path(scratch) / "workflow"
        shutil.copytree(workflow, directory, symlinks=True)
        command = [sys.executable, "-m", "snakemake", *EXECUTORS[executor], "--keep-going"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GPUPOOL_PROFILE": "off"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        with subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_s)
                code: int | None = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, code = process.communicate()[0], None
        text = output.decode(errors="replace").replace(str(directory), "DIRECTORY")
        return Outcome(code, files_of(directory), text)


def files_of(directory: Path) -> dict[str, bytes]:
    """Return every file's content, the name of its own directory left out."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and not OF_A_RUN.search(name):
            found[name] = path.read_bytes().replace(str(directory).encode(), b"DIRECTORY")
    return found


def compare(workflow: Path, limit_s: float) -> Comparison:
    """Run a workflow under both executors and say what differs."""
    ends = {executor: run(workflow, executor, limit_s) for executor in EXECUTORS}
    ours, local = ends["gpupool"], ends["local"]
    differences = []
    late = [name for name, end in ends.items() if end.code is None]
    if late:
        return Comparison(workflow.name, {}, [f"out of time under {' and '.join(late)}"], {})
    if ours.code != local.code:
        differences.append(f"exit code {ours.code}, local {local.code}")
    for name in sorted({*ours.files, *local.files}):
        if name not in ours.files:
            differences.append(f"{name}: not under gpupool")
        elif name not in local.files:
            differences.append(f"{name}: only under gpupool")
        elif ours.files[name] != local.files[name]:
            differences.append(f"{name}: other content")
    words = {name: end.text[-2000:] for name, end in ends.items()} if differences else {}
    codes = {name: end.code for name, end in ends.items()}
    return Comparison(workflow.name, codes, differences, words)


def main() -> int:
    """Compare, report, and return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tests", type=Path, help="the directory tests/ of Snakemake's sources")
    parser.add_argument("--sample", type=int, help="take that many, drawn with a fixed seed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="take these")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a run may take")
    parser.add_argument("--out", type=Path, help="write all that was found as JSON")
    options = parser.parse_args()
    workflows = eligible(options.tests)
    found = len(workflows)
    if options.only:
        workflows = [options.tests / name for name in options.only]
    elif options.sample is not None and options.sample < found:
        workflows = sorted(random.Random(1).sample(workflows, options.sample))
    comparisons = []
    for workflow in workflows:
        comparisons.append(compare(workflow, options.limit))
        last = comparisons[-1]
        print(f"{'DIFFERS' if last.differences else 'same':8}{last.name}  {last.codes}", flush=True)
        for difference in last.differences:
            print(f"        {difference}", flush=True)
        if options.out:
            options.out.write_text(json.dumps([asdict(c) for c in comparisons], indent=1))
    differing = sum(bool(comparison.differences) for comparison in comparisons)
    succeeded = sum(comparison.codes.get("local") == 0 for comparison in comparisons)
    print(
        f"{len(comparisons)} of {found} workflows run, {succeeded} of them succeed under the local "
        f"executor, {differing} differ"
    )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
