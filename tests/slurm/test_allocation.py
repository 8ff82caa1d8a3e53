"""Inside an allocation of a real Slurm: devices, credentials, faults."""

from __future__ import annotations

import signal
import socket
import ssl
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.acceptance.test_faults import eventually
from tests.slurm.running import OnSlurm, devices_of_events, node_of, variable

pytestmark = pytest.mark.usefixtures("slurm")

BOTH = ("-N2", "--gres=gpu:2", "-c4")
ALLOCATION = ("--gpupool-cluster", "allocation")


def test_both_nodes_work_and_only_they_can_talk(tmp_path: Path) -> None:  # D2 D3 S7
    workflow = OnSlurm(tmp_path, jobs=24, sleep_s=0.5, plain=4).allocated(*BOTH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: len(workflow.workers()) == 4, 60), run.output.read_text()
        seen = {(node_of(p), variable(p, "CUDA_VISIBLE_DEVICES")) for p in workflow.workers()}
        _check_credentials(tmp_path)
        _check_listeners(workflow)
        done = run.finished()
    workflow.check(done)
    assert seen == {(node, card) for node in ("n1", "n2") for card in "01"}
    assert devices_of_events(done) == {f"n{n}/cuda:{i}" for n in (1, 2) for i in (0, 1)}
    plain = {tuple((tmp_path / f"plain/{i}.txt").read_text().split()) for i in range(4)}
    assert plain <= seen
    assert not list((tmp_path / ".snakemake/gpupool/latest").glob("tls*")), "credentials stay"
    assert not workflow.processes("worker_main") and not workflow.processes("child_main")


def _check_credentials(directory: Path) -> None:
    folder = directory / ".snakemake/gpupool/latest/tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert files and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def _check_listeners(workflow: OnSlurm) -> None:
    """Nobody listens on all addresses, and nobody talks without the run's certificate."""
    ports = set()
    for process in [*workflow.agents(), *workflow.nannies(), *workflow.coordinators()]:
        for connection in process.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1", (process.cmdline(), connection)
                ports.add(connection.laddr.port)
    assert len(ports) >= 5, "a scheduler, two nannies, two agents"
    with ThreadPoolExecutor(len(ports)) as threads:
        assert not any(threads.map(_speaks_without_a_certificate, ports))


def _speaks_without_a_certificate(port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with context.wrap_socket(plain) as secured:
                # In TLS 1.3 a client learns only now that it should have shown a certificate.
                secured.sendall(b"\0" * 8)
                return bool(secured.recv(1))
        except (ssl.SSLError, OSError):
            return False


def test_slurm_says_which_devices(tmp_path: Path) -> None:  # D2
    workflow = OnSlurm(tmp_path, jobs=4, sleep_s=0.1).allocated("-N1", "-wn2", "--gres=gpu:1")
    run = workflow.run(*ALLOCATION)
    workflow.check(run)
    assert devices_of_events(run) == {"n2/cuda:0"}
    joined = run.events("run_started")[0]["devices"]
    assert joined == ["n2/cuda:0", "n2/cpu:0"], "the other card is not ours"


def test_every_fault_at_once(tmp_path: Path) -> None:  # W4 W7
    """An agent and a worker are killed, another agent is silent for 5 s: nobody notices."""
    workflow = OnSlurm(tmp_path, jobs=24, sleep_s=0.5).allocated(*BOTH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: workflow.has_event("batch_done", 4), 60), run.output.read_text()
        workflow.workers()[-1].send_signal(signal.SIGKILL)
        agent, other = sorted(workflow.agents(), key=node_of)
        lost = [worker for worker in workflow.workers() if node_of(worker) == "n1"]
        agent.send_signal(signal.SIGKILL)
        assert eventually(lambda: not any(worker.is_running() for worker in lost), 5), "orphans"
        other.send_signal(signal.SIGSTOP)
        time.sleep(5.0)
        other.send_signal(signal.SIGCONT)
        done = run.finished()
    workflow.check(done)
    assert len(done.events("devices_joined")) == 3, "the killed agent was started again"
    assert "node n1 is lost: its agent" in done.text
    assert done.summary["worker_crashes"] >= 2


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


def test_outside_of_an_allocation(tmp_path: Path) -> None:
    run = OnSlurm(tmp_path, jobs=1).run(*ALLOCATION)
    assert run.code != 0
    assert "this is no Slurm allocation" in run.text
    assert "Traceback" not in run.text


def test_a_killed_coordinator_leaves_nothing_behind(tmp_path: Path) -> None:  # W7
    workflow = OnSlurm(tmp_path, jobs=4, sleep_s=2.0).allocated(*BOTH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: len(workflow.workers()) >= 1, 60), run.output.read_text()
        (coordinator,) = workflow.coordinators()
        coordinator.kill()
        assert eventually(lambda: not workflow.processes("child_main"), 10)
        assert eventually(lambda: not workflow.processes("worker_main"), 20)
