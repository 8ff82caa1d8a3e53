"""Inside an allocation of a real Slurm that takes one card a node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.slurm.running import OnSlurm, devices_of_events, is_alive, node_of, variable
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("on_short_pilots")

ALLOCATION = ("--gpupool-cluster", "allocation")
ONE_EACH = ("-N2", "--gres=gpu:1", "-c4")


@contextlib.contextmanager
def first_card_taken(node: str) -> Iterator[None]:
    """Somebody else's job holds a node's first card meanwhile."""
    options = ["--parsable", "-w", node, "--gres=gpu:1", "-c1", "--output=/dev/null"]
    asked = subprocess.run(
        ["sbatch", *options, "--wrap", "sleep 60"], capture_output=True, text=True, check=True
    )
    try:
        yield
    finally:
        subprocess.run(["scancel", asked.stdout.strip()], check=True)


def test_slurm_says_which_devices_and_the_user_which_of_them(tmp_path: Path) -> None:  # D2 D3
    workflow = OnSlurm(tmp_path, jobs=4, sleep_s=0.5).allocated(*ONE_EACH)
    ours = (*ALLOCATION, "--gpupool-devices", "n1/all")
    with first_card_taken("n1"), workflow.running(*ours) as run:
        assert eventually(lambda: bool(workflow.workers()), 60), run.output.read_text()
        seen = {(node_of(p), variable(p, "CUDA_VISIBLE_DEVICES")) for p in workflow.workers()}
        done = run.finished()
    workflow.check(done)
    assert seen == {("n1", "1")}, "the first of our devices is the second card"
    assert devices_of_events(done) == {"n1/cuda:0"}
    assert done.events("run_started")[0]["devices"] == ["n1/cuda:0", "n1/cpu:0"]


def test_an_agent_gets_all_that_is_ours_on_its_node() -> None:
    """However it was asked for: what ``salloc`` leaves for steps must not narrow ours."""
    told = (
        "import os, subprocess; from snakemake_executor_gpupool.hosts.cluster.slurm import *; "
        "step = lambda node: subprocess.run([*srun(node, gpus_of_nodes(os.environ)[node]), 'sh', "
        "'-c', 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $SLURM_CPUS_ON_NODE'], "
        "env=step_environment(os.environ), check=True); "
        "[step(node) for node in allocated_nodes(os.environ)]"
    )
    for options in (
        ("-N1", "-n2", "-c1", "--gpus-per-task=1"),
        ("-N1", "-n2", "-G2", "--ntasks-per-node=2", "--cpus-per-gpu=1"),
        ("-N1", "--gpus-per-node=2", "--ntasks-per-node=1", "-c2", "--gpu-bind=closest"),
    ):
        command = ["salloc", "--quiet", "-wn1", *options, sys.executable, "-c", told]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.split() == ["n1", "0,1", "2"], (options, done.stderr)


def test_a_directory_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    """The run's directory is in a mount of its own, which Slurm's daemons do not see."""
    workflow = OnSlurm(tmp_path / "here", jobs=1).allocated("-N1", "--gres=gpu:1")
    inside = " ".join(workflow.command("--executor", "gpupool", "--jobs", "2", *ALLOCATION))
    script = f"cp -r {tmp_path}/here {tmp_path}/kept && mount -t tmpfs none {tmp_path}/here && "
    script += f"cp -r {tmp_path}/kept/. {tmp_path}/here && cd {tmp_path}/here && {inside}"
    run = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env=workflow.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    text = run.stdout + run.stderr
    assert run.returncode != 0
    assert "file system that all nodes share" in text, text


def test_outside_of_an_allocation(tmp_path: Path) -> None:  # S9
    run = OnSlurm(tmp_path, jobs=1).run(*ALLOCATION)
    assert run.code != 0
    assert "this is no Slurm allocation" in run.text
    assert "Traceback" not in run.text


def test_a_killed_coordinator_leaves_nothing_behind(tmp_path: Path) -> None:  # W7
    workflow = OnSlurm(tmp_path, jobs=4, sleep_s=2.0).allocated(*ONE_EACH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: len(workflow.workers()) >= 1, 60), run.output.read_text()
        (coordinator,) = workflow.coordinators()
        coordinator.kill()
        assert eventually(lambda: not workflow.processes("worker/main"), 10)
        assert eventually(lambda: not workflow.processes("worker_main"), 20)


def slurmd(node: str) -> psutil.Process:
    """A node's daemon."""
    pid = Path(os.environ["SLURM_CONF"]).with_name(f"slurmd.{node}.pid").read_text()
    return psutil.Process(int(pid))


def all_of_node(workflow: OnSlurm, node: str) -> list[psutil.Process]:
    """A node's daemon, and all that it has started for a run."""
    daemons = [p for p in psutil.process_iter() if p.name() == "slurmstepd"]
    ours = [p for p in workflow.processes() if node_of(p) == node]
    above = {parent.pid for process in ours for parent in process.parents()}
    return [slurmd(node), *(p for p in daemons if p.pid in above), *ours]


@pytest.mark.parametrize("how", ["power", "network"])
def test_a_node_is_lost(tmp_path: Path, how: str) -> None:  # W4 D12
    """All of it is killed, its daemon too; or it falls silent, and comes back after the run."""
    workflow = OnSlurm(tmp_path, jobs=10, sleep_s=0.5).allocated(*ONE_EACH, "--no-kill")
    number = signal.SIGKILL if how == "power" else signal.SIGSTOP
    gone: list[psutil.Process] = []
    try:
        with workflow.running(*ALLOCATION, "--gpupool-link-timeout", "4") as run:
            assert eventually(lambda: workflow.has_event("batch_done", 6), 60), (
                run.output.read_text()
            )
            gone = all_of_node(workflow, "n1")
            workers = [p for p in workflow.workers() if node_of(p) == "n1"]
            assert workers and {p.pid for p in workers} <= {p.pid for p in gone}
            for process in gone:
                process.send_signal(number)
            done = run.finished()
            # What was silent must not go on where others have taken over.
            for process in gone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
            assert eventually(lambda: not any(map(is_alive, workers)), 10)
    finally:
        bring_back("n1", gone)
    workflow.check(done)
    assert "node n1 is lost" in done.text
    assert devices_of_events(done) == {"n1/cuda:0", "n2/cuda:0"}


def bring_back(node: str, stopped: list[psutil.Process]) -> None:
    """Have a node's daemon run again, and wait until Slurm uses it."""
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    if not any(is_alive(process) and process.name() == "slurmd" for process in stopped):
        subprocess.run(["slurmd", "-N", node, "-f", os.environ["SLURM_CONF"]], check=True)
    assert eventually(lambda: state(node) in ("idle", "mixed"), 30), state(node)


def state(node: str) -> str:
    """What Slurm says of a node."""
    command = ["sinfo", "--noheader", "--nodes", node, "--format", "%T"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
