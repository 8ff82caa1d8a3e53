"""Pilots that Slurm wants back: by a signal, to all processes or one, by requeue, by scancel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.slurm.running import OnSlurm, Run, variable
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("slurm")

PILOTS = ("--gpupool-cluster", "slurm", "--gpupool-gpus-per-node", "1", "--gpupool-nodes", "0:2")
SIZE = ("--gpupool-cores-per-node", "2", "--gpupool-memory-per-node", "1GiB")

#: A job that says where it runs and at which attempt, and ends once it may.
PLAIN = """
rule NAME:
    output: "NAME.txt"
    retries: 2
    resources: RESOURCES at=lambda wildcards, attempt: attempt
    shell:
        "echo $SLURM_JOB_ID {resources.at} >> NAME.started; test ! -e {output}; "
        "echo half > {output}; until [ -e NAME.may_end ]; do sleep 0.1; done; echo whole > {output}"
"""


class Preempted(OnSlurm):
    """Served jobs, one plain job with a device and one without."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, jobs=80, sleep_s=0.6)
        path = directory / "Snakefile"
        plain = PLAIN.replace("NAME", "card").replace("RESOURCES", "gpu=1,")
        plain += PLAIN.replace("NAME", "core").replace("RESOURCES", "")
        text = path.read_text().replace("input: expand", 'input: "card.txt", "core.txt", expand', 1)
        path.write_text(text + plain)

    def tries(self, name: str) -> list[list[str]]:
        """Slurm's job and the attempt of each time that a plain job began."""
        path = self.directory / f"{name}.started"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def joined(self) -> int:
        """How many times a node has joined."""
        return self.events_text().count('"event": "devices_joined"')


def signal_to(job: str, *how: str) -> None:
    subprocess.run(["scancel", *how, job], check=True)


def test_what_slurm_wants_back_costs_nothing(tmp_path: Path) -> None:  # W4
    workflow = Preempted(tmp_path)
    with workflow.running(*PILOTS, *SIZE, "--gpupool-cpu-rules", "cluster") as run:
        shown = run.output.read_text
        assert eventually(lambda: workflow.has_event("devices_joined", 2), 90), shown()
        assert eventually(lambda: workflow.tries("card") and workflow.tries("core"), 90), shown()
        first = workflow.tries("card")[0][0]
        signal_to(first, "--signal=USR1", "--batch")
        assert eventually(lambda: len(workflow.tries("card")) == 2, 120), shown()
        assert eventually(lambda: first not in workflow.slurm_jobs(), 60), workflow.in_slurm()
        (tmp_path / "card.may_end").touch()
        second = workflow.tries("core")[-1][0]
        signal_to(second, "--signal=TERM", "--full")
        assert eventually(lambda: workflow.tries("core")[-1][0] != second, 120), shown()
        (tmp_path / "core.may_end").touch()
        _check_others(workflow, run)
        done = run.finished(300)
    workflow.check(done)
    for name in ("card", "core"):
        jobs, attempts = zip(*workflow.tries(name), strict=True)
        assert set(attempts) == {"1"} and len(set(jobs)) == len(jobs), "once on each"
    assert done.read("card.txt") == done.read("core.txt") == "whole\n"
    assert "told to end (SIGUSR1)" in done.text and "told to end (SIGTERM)" in done.text
    assert done.summary["worker_crashes"] == 0, done.text


def _check_others(workflow: Preempted, run: Run) -> None:
    """A pilot that computes is requeued; the two before it have been replaced."""
    assert eventually(lambda: workflow.joined() == 4, 120), run.output.read_text()
    workers = workflow.workers()
    assert workers, run.output.read_text()
    job = variable(workers[0], "SLURM_JOB_ID")
    subprocess.run(["scontrol", "requeue", job], check=True)
    assert eventually(lambda: workflow.joined() == 5, 120), run.output.read_text()
