"""Pilot jobs on a real Slurm: as many as there is work for, and none when there is none."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.test_faults import eventually
from tests.slurm.running import OnSlurm

pytestmark = pytest.mark.usefixtures("slurm")

PILOTS = ("--gpupool-cluster", "slurm", "--gpupool-gpus-per-node", "2")
SIZE = ("--gpupool-cores-per-node", "4", "--gpupool-memory-per-node", "1GiB")


def pilots(state: str = "RUNNING") -> list[str]:
    """The numbers of the jobs in Slurm."""
    told = subprocess.run(
        ["squeue", "--noheader", "--states", state, "--format", "%i"],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.split()


def test_a_cancelled_pilot_costs_nothing_and_an_idle_one_ends(tmp_path: Path) -> None:  # W4
    workflow = OnSlurm(tmp_path, jobs=24, sleep_s=0.6, tail_s=25)
    with workflow.running(*PILOTS, *SIZE, "--gpupool-nodes", "0:2") as run:
        assert eventually(lambda: workflow.has_event("devices_joined", 2), 60), (
            run.output.read_text()
        )
        assert eventually(lambda: workflow.has_event("batch_done", 8), 30)
        subprocess.run(["scancel", pilots()[0]], check=True)
        # The last job needs no device: the pilots are given back while it runs.
        assert eventually((tmp_path / "tail.started").exists, 60), run.output.read_text()
        assert eventually(lambda: not pilots(), 22), run.output.read_text()
        done = run.finished()
    workflow.check(done)
    assert "is lost" in done.text
    assert not pilots()


def test_nothing_is_begun_that_a_pilot_cannot_finish(tmp_path: Path) -> None:
    """Each shard takes 12 s, and a pilot lives for a minute: none is cut off by its end."""
    workflow = OnSlurm(tmp_path, jobs=2, sleep_s=8.0)
    # Slurm counts in minutes; the node counts down by itself.
    started_s = time.monotonic()
    run = workflow.run(
        *(*PILOTS, *SIZE, "--gpupool-nodes", "0:1", "--gpupool-gpus-per-node", "1"),
        *("--gpupool-walltime", "00:01:00"),
        timeout_s=200,
    )
    workflow.check(run)
    assert time.monotonic() - started_s > 64, "eight shards of 8 s on one device"
    assert run.summary["worker_crashes"] == 0


def test_a_partition_that_does_not_exist_is_said(tmp_path: Path) -> None:  # S9
    workflow = OnSlurm(tmp_path, jobs=1)
    run = workflow.run(*PILOTS, *SIZE, "--gpupool-nodes", "1", "--gpupool-partition", "nowhere")
    assert run.code != 0
    assert "a pilot cannot be submitted" in run.text and "invalid partition" in run.text.lower()
