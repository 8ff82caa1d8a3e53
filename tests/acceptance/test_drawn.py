"""Workflows that a seed draws, with faults and edits, against the local executor (S4 S6).

Files, who may write them, logs, what Snakemake keeps of each output, exit codes, the jobs that fail
and what would be left to do have to be the same. A failing seed is run again with
``-k 'seed_7 and' -m ''``.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.acceptance.drawing import Drawing, apply
from tests.acceptance.running import LOCAL, Finished, Workflow
from tests.acceptance.test_matrix import metadata

#: Where only the pool keeps something.
OWN = ("kept-results",)


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    """Return every file but Snakemake's own and logs: who may write it, and its text."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if name.parts[0] in (".snakemake", "logs", "bench", "__pycache__", *OWN):
            continue
        text = "a directory" if path.is_dir() else path.read_text()
        found[str(name)] = path.stat().st_mode & 0o222, text
    return found


def logs(directory: Path) -> dict[str, list[str]]:
    """Return what tools have printed into each log."""
    return {
        str(path.relative_to(directory)): [
            line for line in path.read_text().splitlines() if line.startswith(("SAY", "by hand"))
        ]
        for path in sorted((directory / "logs").rglob("*"))
        if path.is_file()
    }


def failed(run: Finished) -> list[tuple[str, str]]:
    """Return rule and outputs of each attempt that failed, as Snakemake says it."""
    words = r"^Error in (?:rule|checkpoint) (\w+).*?\n +output: ([^\n]*)"
    return sorted(re.findall(words, run.text, re.S | re.M))


def left(run: Finished) -> list[str]:
    """Return what a dry run says of each job that is left: its rule, outputs and why."""
    lines = run.text.splitlines()
    words = ("rule ", "checkpoint ", "    output:", "    reason:")
    return sorted(" ".join(line.split()) for line in lines if line.startswith(words))


def compare(ours: Finished, local: Finished) -> None:
    """Assert that two runs left the same."""
    assert ours.code == local.code, ours.text + local.text
    assert failed(ours) == failed(local), ours.text + local.text
    assert contents(ours.directory) == contents(local.directory), ours.text + local.text
    assert logs(ours.directory) == logs(local.directory), ours.text + local.text
    assert metadata(ours.directory) == metadata(local.directory), ours.text + local.text


def both(
    ours: Workflow, local: Workflow, *words: str, own: tuple[list[str], dict[str, str]]
) -> Finished:
    """Run both, and compare."""
    run = ours.run("--cores", "2", "--keep-going", *words, *own[0], **own[1])
    compare(run, local.run(*LOCAL, "--keep-going", *words))
    return run


def drawn(place: Path, seed: int) -> None:
    """Draw a workflow, run it twice with something in between, and look each time."""
    drawing = Drawing(seed)
    ours, local = (
        Workflow(place / name, drawing.snakefile, drawing.files) for name in ("ours", "local")
    )
    both(ours, local, own=drawing.ours())
    changes = drawing.changes()
    time.sleep(0.01)
    for workflow in (ours, local):
        apply(workflow.directory, changes)
    both(ours, local, *drawing.options(), own=drawing.ours())
    rest = [each.run(*how, "--dry-run") for each, how in ((ours, ("--cores", "2")), (local, LOCAL))]
    assert left(rest[0]) == left(rest[1])


#: Few jobs, with much in them.
QUICK = (32, 97)


@pytest.mark.parametrize("seed", QUICK, ids=lambda seed: f"seed_{seed}")
def test_some_seeds(tmp_path: Path, seed: int) -> None:
    drawn(tmp_path, seed)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", sorted({*range(100)} - {*QUICK}), ids=lambda seed: f"seed_{seed}")
def test_many_seeds(tmp_path: Path, seed: int) -> None:
    drawn(tmp_path, seed)
