"""Pilot jobs on a real Slurm: as many as there is work for, and none when there is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from tests.slurm.running import OnSlurm, Run, devices_of_events
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("slurm")

PILOTS = ("--gpupool-cluster", "slurm", "--gpupool-gpus-per-node", "1")
SIZE = ("--gpupool-cores-per-node", "2", "--gpupool-memory-per-node", "1GiB")


def test_a_partition_that_does_not_exist_is_said(tmp_path: Path) -> None:  # S9
    workflow = OnSlurm(tmp_path, jobs=1)
    run = workflow.run(*PILOTS, *SIZE, "--gpupool-nodes", "1", "--gpupool-partition", "nowhere")
    assert run.code != 0
    assert "a pilot cannot be submitted" in run.text and "invalid partition" in run.text.lower()


def test_a_cancelled_pilot_costs_nothing_and_an_idle_one_ends(tmp_path: Path) -> None:  # W4
    """Several pilots share a node, each with its card."""
    workflow = OnSlurm(tmp_path, jobs=16, sleep_s=0.6, has_tail=True)
    with workflow.running(*PILOTS, *SIZE, "--gpupool-nodes", "0:3") as run:
        assert eventually(lambda: workflow.has_event("devices_joined", 3), 60), (
            run.output.read_text()
        )
        assert eventually(lambda: workflow.has_event("batch_done", 6), 30)
        for process in [*workflow.nannies(), *workflow.agents(), *workflow.coordinators()]:
            for connection in process.net_connections(kind="tcp"):
                is_local = connection.laddr.ip == "127.0.0.1"
                assert is_local or connection.status != psutil.CONN_LISTEN, connection
        subprocess.run(["scancel", workflow.slurm_jobs()[0]], check=True)
        # The last job needs no device: the pilots are given back while it runs.
        assert eventually((tmp_path / "tail.started").exists, 60), run.output.read_text()
        assert eventually(lambda: not workflow.slurm_jobs()), workflow.in_slurm()
        (tmp_path / "tail.may_end").touch()
        done = run.finished()
    workflow.check(done)
    # Slurm signals all processes of a job: the agent hears of it, or is gone before.
    assert "was told to end" in done.text or "is lost" in done.text
    assert len(devices_of_events(done)) >= 3
    assert not workflow.slurm_jobs()


def test_nothing_is_begun_that_a_pilot_cannot_finish(on_short_pilots: tuple[OnSlurm, Run]) -> None:
    """Eight shards of 8 s on one card of pilots that live for a minute: none is cut off."""
    workflow, run = on_short_pilots
    done = run.finished(200)
    workflow.check(done)
    assert len(done.events("devices_joined")) == 2, "a second pilot did the rest"
    assert done.summary["worker_crashes"] == 0
