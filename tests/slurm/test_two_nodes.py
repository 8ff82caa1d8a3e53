"""All four cards of both nodes: who computes what, who can talk to whom, and faults."""

from __future__ import annotations

import signal
import socket
import ssl
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from snakemake_executor_gpupool.hosts.cluster.security import Credentials
from tests.slurm.network import network
from tests.slurm.running import OnSlurm, devices_of_events, is_alive, node_of, variable
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("slurm")

BOTH = ("-N2", "--gres=gpu:2", "-c4")
ALLOCATION = ("--gpupool-cluster", "allocation")


def test_both_nodes_work_and_only_they_can_talk(tmp_path: Path) -> None:  # D2 D3 S6 S7
    strange = Credentials(tmp_path / "somebody else's")
    workflow = OnSlurm(tmp_path / "run", jobs=20, sleep_s=0.5, plain=4).allocated(*BOTH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: len(workflow.workers()) == 4, 60), run.output.read_text()
        seen = {(node_of(p), variable(p, "CUDA_VISIBLE_DEVICES")) for p in workflow.workers()}
        _check_credentials(workflow.directory)
        _check_listeners(workflow, strange)
        done = run.finished()
    workflow.check(done)
    assert seen == {(node, card) for node in ("n1", "n2") for card in "01"}
    assert devices_of_events(done) == {f"n{n}/cuda:{i}" for n in (1, 2) for i in (0, 1)}
    plain = {tuple(done.read(f"plain/{i}.txt").split()) for i in range(4)}
    assert plain <= seen
    assert done.read("there.txt") == "n2 1\n"
    assert done.read("here.txt") == "here\n", "a rule without devices stays where Snakemake is"
    assert done.written_elsewhere() == []
    assert not list(workflow.directory.glob(".snakemake/gpupool/*/tls*")), "credentials stay"
    assert not workflow.processes("worker_main") and not workflow.processes("worker/main")


def _check_credentials(directory: Path) -> None:
    folder = directory / ".snakemake/gpupool/latest/tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert files and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def _check_listeners(workflow: OnSlurm, strange: Credentials) -> None:
    """Nobody listens on all addresses, and nobody talks without the run's certificate."""
    ports = set()
    for process in [*workflow.agents(), *workflow.nannies(), *workflow.coordinators()]:
        for connection in process.net_connections(kind="tcp"):  # of /proc/PID/net/tcp and tcp6
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1", (process.cmdline(), connection)
                ports.add(connection.laddr.port)
    assert len(ports) >= 5, "a scheduler, two nannies, two agents"
    folder = workflow.directory / ".snakemake/gpupool/latest/tls"
    ours = (str(folder / "certificate.pem"), str(folder / "key.pem"))
    theirs = (strange.certificate, strange.key)
    with ThreadPoolExecutor(3 * len(ports)) as threads:
        answers = {
            shown: [threads.submit(_speaks, port, shown) for port in ports]
            for shown in (ours, theirs, None)
        }
    assert any(answer.result() for answer in answers[ours]), "what a client of ours gets"
    assert not any(answer.result() for answer in (*answers[theirs], *answers[None]))


def _speaks(port: int, shown: tuple[str, str] | None) -> bool:
    """Whether a client gets an answer that shows this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shown is not None:
        context.load_cert_chain(*shown)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            # In TLS 1.3 a client learns only now that it should have shown a certificate.
            return bool(secured.recv(1))
    except OSError:  # and ssl.SSLError
        return False


def test_every_fault_at_once(tmp_path: Path) -> None:  # W4 W7
    """An agent and a worker are killed, and the network is cut for 5 s: nobody notices.

    The agent's workers are stopped and its reaper is killed: what ends them is the kernel.
    """
    workflow = OnSlurm(tmp_path, jobs=24, sleep_s=0.6).allocated(*BOTH)
    with workflow.running(*ALLOCATION) as run:
        assert eventually(lambda: workflow.has_event("model_loaded", 4), 60), run.output.read_text()
        agent, other = sorted(workflow.agents(), key=node_of)
        *lost, _, last = sorted(workflow.workers(), key=node_of)
        assert [node_of(process) for process in (*lost, last)] == ["n1", "n1", "n2"]
        last.send_signal(signal.SIGKILL)
        for process in lost:
            process.send_signal(signal.SIGSTOP)
        for process in workflow.processes("reaper.py"):
            if node_of(process) == "n1":
                process.kill()
        agent.send_signal(signal.SIGKILL)
        assert eventually(lambda: not any(map(is_alive, lost)), 5), "orphans"
        # Two nodes at the start, and the one that was killed.
        assert eventually(lambda: workflow.has_event("devices_joined", 3), 30)
        before = workflow.events_text().count('"event": "batch_done"')
        if network.is_private:
            with network.cut():
                time.sleep(5.0)
        else:  # the next best thing
            other.send_signal(signal.SIGSTOP)
            time.sleep(5.0)
            other.send_signal(signal.SIGCONT)
        assert before < 24 * 4, "there was nothing left to disturb"
        done = run.finished()
    workflow.check(done)
    assert len(done.events("devices_joined")) == 3, "a silent network loses nobody"
    assert "node n1 is lost: its agent" in done.text
    assert done.summary["worker_crashes"] >= 2
