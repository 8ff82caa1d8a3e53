"""The batch system wants a node back: what its agent, workers and commands do, and who hears."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.frontends.snakemake.alone import MAX_LOSSES, Alone
from snakemake_executor_gpupool.frontends.snakemake.local_jobs import NodeLost
from snakemake_executor_gpupool.hosts.base import DevicesLeft, WorkerGone
from snakemake_executor_gpupool.hosts.cluster import end_signals, processes
from snakemake_executor_gpupool.hosts.cluster.agent import AgentPlugin
from snakemake_executor_gpupool.hosts.cluster.host import ClusterHost
from snakemake_executor_gpupool.hosts.cluster.messages import (
    CommandDone,
    End,
    Joined,
    ProcessGone,
    ToldToEnd,
    pack,
    unpack,
)
from snakemake_executor_gpupool.hosts.cluster.processes import NodeProcesses
from snakemake_executor_gpupool.hosts.cluster.session import Session
from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE
from tests.unit.test_cluster_host import CARD, TOOL, host, join, told
from tests.waiting import PATIENCE_S, eventually

__all__ = ["host"]


# -- the coordinator ----------------------------------------------------------------------------


def test_a_node_that_was_told_to_end_is_let_go_once_nothing_runs_there(host: ClusterHost) -> None:
    said: list[str] = []
    host._say = said.append
    join(host, "n1")
    host.start("model", TOOL, (CARD.on("n1"),))
    host.poll(0.0)
    node = host._nodes["n1"]
    host._answered(node, ToldToEnd("SIGUSR1"))
    host._answered(node, ToldToEnd("SIGTERM"))
    (left,) = host.poll(0.0)
    assert isinstance(left, DevicesLeft) and left.at_once and left.names == ("n1/cuda:0",)
    assert End() not in told(host, "n1"), "its worker still computes"
    assert [line for line in said if "told to end (SIGUSR1)" in line] and len(said) == 2
    host.start("no device", TOOL, ())
    assert len(told(host, "n2")) == 1
    host._answered(node, ProcessGone("model", "killed by SIGTERM", False, is_blameless=True))
    (gone,) = host.poll(0.0)
    assert isinstance(gone, WorkerGone) and gone.blameless
    assert told(host, "n1")[-1] == End()


def test_a_node_that_was_told_to_end_is_not_let_go_while_a_command_runs(host: ClusterHost) -> None:
    host._say = lambda line: None
    join(host, "n1")
    node, codes = host._nodes["n1"], []
    thread = threading.Thread(target=lambda: codes.append(host.commands.run("x", {}, threads=1)))
    thread.start()
    assert eventually(lambda: bool(told(host, "n1")))
    host._answered(node, ToldToEnd("SIGTERM"))
    assert End() not in told(host, "n1"), "how the command ended could not be said any more"
    host._arrived(node, pack(CommandDone(1, LEFT_CODE)))
    host.poll(0.0)
    thread.join(PATIENCE_S)
    assert codes == [LEFT_CODE] and told(host, "n1")[-1] == End()


def test_a_node_that_was_told_to_end_before_it_joined_never_does(host: ClusterHost) -> None:
    host._say = lambda line: None
    node = host._nodes["n1"]
    node.has_joined = False
    host._answered(node, ToldToEnd("SIGTERM"))
    assert told(host, "n1") == [End()]
    host.poll(0.0)
    host._joined(node, Joined((CARD,), None, ()))
    assert host.poll(0.0) == []


# -- an agent -----------------------------------------------------------------------------------


@pytest.fixture
def session() -> Any:
    """A session whose thread does nothing but turn; with what it has said."""
    loop: Any = SimpleNamespace()
    made = Session("s", loop)
    said: list[Any] = []
    made.endpoint.post = lambda data: said.append(unpack(data))  # type: ignore[method-assign]
    yield made, said
    made.close()


def test_what_ended_just_before_the_signal_came_is_nobodys_fault(session: Any) -> None:  # W4
    made, said = session
    made._post(lambda: made._on_host_event(WorkerGone("w", "killed by SIGTERM", expected=False)))
    made._post(lambda: made._on_host_event(WorkerGone("other", "exit code 0", expected=True)))
    made.told_to_end("SIGTERM")
    assert eventually(lambda: len(said) == 3)
    assert said == [
        ProcessGone("other", "exit code 0", is_expected=True),
        ToldToEnd("SIGTERM"),
        ProcessGone("w", "killed by SIGTERM", is_expected=False, is_blameless=True),
    ]


def test_without_a_signal_a_process_that_ended_is_to_blame(session: Any) -> None:
    made, said = session
    made._post(lambda: made._on_host_event(WorkerGone("w", "killed by SIGTERM", expected=False)))
    assert eventually(lambda: bool(said))
    assert said == [ProcessGone("w", "killed by SIGTERM", is_expected=False)]


def test_an_agent_ends_when_it_may_and_its_commands_have(session: Any, tmp_path: Path) -> None:
    made, said = session
    log, up = str(tmp_path / "log"), tmp_path / "up"
    body = f"bash -c \"trap 'exit 0' TERM; touch {up}; while :; do sleep 0.05; done\"; exit $?"
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(made.processes.run(body, str(tmp_path), {}, log))
    )
    thread.start()
    assert eventually(up.exists)
    made.told_to_end("SIGUSR1")
    made._post(lambda: made._obey(End()))
    made.wait()
    thread.join(PATIENCE_S)
    assert codes == [LEFT_CODE], "it was asked to end: what it left is not what it should leave"
    assert said == [ToldToEnd("SIGUSR1")]
    assert made.processes.run("touch late", str(tmp_path), {}, log) == LEFT_CODE
    assert not (tmp_path / "late").exists()


def test_a_command_may_get_the_signal_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LATER_S", PATIENCE_S)
    ended = threading.Event()
    node = NodeProcesses(lambda group, mark: None, lambda group: None)
    codes: list[int] = []

    def run() -> None:
        codes.append(node.run("kill -TERM $$", str(tmp_path), {}, str(tmp_path / "log")))
        ended.set()

    threading.Thread(target=run).start()
    node.told_to_end()
    assert ended.wait(PATIENCE_S) and codes == [LEFT_CODE]


class Worker:
    """A Dask worker, or its nanny, that only notes how it ends."""

    def __init__(self, *plugins: Any) -> None:
        self.plugins = dict(enumerate(plugins))
        self.closed: list[str] = []

    async def close(self, reason: str = "") -> None:
        self.closed.append(reason)


def test_an_agent_without_a_run_ends_at_once() -> None:
    async def signalled() -> list[str]:
        worker = Worker(SimpleNamespace())
        end_signals._leave(worker, signal.SIGTERM)
        await asyncio.sleep(0)
        return worker.closed

    assert asyncio.run(signalled()) == [""]


def test_an_agent_that_was_told_to_end_takes_no_further_run() -> None:
    async def signalled() -> tuple[list[str], list[Any]]:
        worker: Any = Worker()
        worker.handlers, worker.address, worker.nanny, worker.name = {}, "tls://x:1", None, "x"
        worker.state = SimpleNamespace(total_resources={}, nthreads=1)
        worker.log_event = lambda topic, announcement: None
        plugin = AgentPlugin("run")
        plugin.setup(worker)
        worker.plugins["run"] = plugin
        end_signals._leave(worker, signal.SIGUSR1)
        end_signals._leave(worker, signal.SIGTERM)
        answers: list[Any] = []

        async def write(message: Any) -> None:
            answers.append(message)

        comm: Any = SimpleNamespace(write=write)
        await worker.handlers[plugin.name](comm, "late", 0)
        await plugin._leaving
        return worker.closed, answers

    closed, answers = asyncio.run(signalled())
    assert closed == ["told to end"] and answers == [{"received": None}]


# -- a worker -----------------------------------------------------------------------------------

OUTLASTS = """
import os, signal, sys, time
from snakemake_executor_gpupool.worker.end_signals import outlast
outlast(int(sys.argv[1]))
child = os.fork()
if child == 0:
    signal.pause()
    os._exit(0)
print(child, flush=True)
while True:
    time.sleep(60)
"""


def test_a_worker_outlasts_such_signals_until_its_channel_is_closed() -> None:  # W7
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", OUTLASTS, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    assert process.stdout is not None
    child = int(process.stdout.readline())
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        process.send_signal(number)

    def is_ended() -> bool:
        """As multiprocessing ends its own; a signal may be lost while a child is being forked."""
        os.kill(child, signal.SIGTERM)
        return state_of(child) == "Z"

    assert eventually(is_ended), "a child of the tool ends as ever"
    assert process.poll() is None
    ours.shutdown(socket.SHUT_WR)
    process.send_signal(signal.SIGTERM)
    # One that came before may be handled only now.
    assert -process.wait(PATIENCE_S) in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    process.stdout.close()
    ours.close()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# -- a job that is not served -------------------------------------------------------------------


def test_a_job_whose_node_was_told_to_end_runs_again_however_often() -> None:
    jobs: list[Any] = []
    lane: Any = SimpleNamespace(submit=jobs.append, memory_mb=None, is_cancelled=False)
    logger: Any = SimpleNamespace(warning=lambda line: None, error=lambda line: None)
    alone = Alone(None, lane, None, None, logger)  # type: ignore[arg-type]
    job: Any = SimpleNamespace(
        threads=1,
        priority=0,
        resources={},
        name="a",
        rule=SimpleNamespace(name="a"),
        wildcards_dict={},
        is_group=lambda: False,
    )
    reports: list[Any] = []
    alone.run(job, reports.append)
    for _ in range(3 * MAX_LOSSES):
        jobs[-1].done(NodeLost(is_told_to_end=True))
    assert len(jobs) == 1 + 3 * MAX_LOSSES and not reports
    assert jobs[0].withdrawn is not None and jobs[-1].withdrawn is None, "it goes on"
    for _ in range(MAX_LOSSES + 1):
        jobs[-1].done(NodeLost())
    (report,) = reports
    assert report.error and "4 nodes were lost" in report.error, "it may be its fault"
