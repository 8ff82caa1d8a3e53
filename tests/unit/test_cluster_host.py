"""Where a cluster's processes go, and what is added to their frames."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import FrameError
from snakemake_executor_gpupool.hosts.base import (
    DevicesJoined,
    DevicesLeft,
    FrameArrived,
    WorkerGone,
)
from snakemake_executor_gpupool.hosts.cluster import membership
from snakemake_executor_gpupool.hosts.cluster.host import ClusterHost
from snakemake_executor_gpupool.hosts.cluster.messages import (
    Begin,
    Command,
    CommandDone,
    End,
    Joined,
    Message,
    Offer,
    ProcessGone,
    RunCommand,
    SendFrame,
    StartProcess,
    StopProcess,
    Unfit,
    WorkerFrame,
    pack,
    unpack,
)
from snakemake_executor_gpupool.hosts.cluster.nodes import Node
from snakemake_executor_gpupool.hosts.cluster.shell_command import ShellCommand
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.frames import Frame, SpoolFile, encode
from snakemake_executor_gpupool.wire.requests import Container, ToolRef

TOOL = ToolRef("tool", "/", "python")
CARD = Device("cuda:0", "cuda", 0)


class Local:
    """This machine, which only notes what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.sent: list[dict[str, Any]] = []

    def start(self, worker_id: str, *where: object, is_ahead: bool = False) -> None:
        self.started.append(worker_id)

    def send(self, worker_id: str, meta: dict[str, Any], blobs: object = ()) -> None:
        self.sent.append(meta)

    def poll(self, timeout_s: float) -> list[object]:
        return []

    def wake(self) -> None:
        pass

    def believes(self, worker_id: str) -> bool:
        return True


class Told(Node):
    """A node that only notes what it is told."""

    def tell(self, command: Command) -> None:
        self.__dict__.setdefault("told", []).append(unpack(pack(command)))


@pytest.fixture
def host(tmp_path: Path) -> ClusterHost:
    """Two nodes, and this machine."""
    paths = RunPaths(tmp_path, shared=True)
    paths.create()
    engine: Any = SimpleNamespace(watch=lambda meet: None)
    begin: Any = SimpleNamespace(latency_wait_s=7.0)
    launcher: Any = SimpleNamespace(look=lambda now_s: None, has_hope=True)
    others: Any = (begin, SimpleNamespace(), print, contextlib.ExitStack())
    made = ClusterHost(Local(), engine, launcher, paths, *others)  # type: ignore[arg-type]
    for name in ("n1", "n2"):
        endpoint: Any = None
        made._nodes[name] = Told(name, "", "", name, "", endpoint, "", has_joined=True)
    return made


def told(host: ClusterHost, node: str) -> list[Any]:
    """What a node was told."""
    return host._nodes[node].__dict__.get("told", [])


def test_a_process_goes_where_it_is_to_be(host: ClusterHost) -> None:
    host.start("model", TOOL, (CARD.on("n1"),))
    host.start("files", TOOL, (), "n2")
    host.start("here", TOOL, (), "")
    assert told(host, "n1") == [StartProcess("model", TOOL, ("cuda:0",))]
    assert told(host, "n2") == [StartProcess("files", TOOL, ())]
    assert host._local.started == ["here"]  # type: ignore[attr-defined]
    host.start("no device", TOOL, ())
    assert len(told(host, "n1")) == 2, "n2 has one without a device already"


def test_a_node_that_is_gone_is_nobodys_fault(host: ClusterHost) -> None:
    host.start("files", TOOL, (), "n3")
    (gone,) = host.poll(0.0)
    assert isinstance(gone, WorkerGone) and gone.blameless and not gone.expected


@pytest.mark.parametrize("kind", ["read", "write", "publish", "run", "chain", "step"])
def test_whoever_reads_files_of_others_is_told_how_long_to_wait(
    host: ClusterHost, kind: str
) -> None:
    host.start("far", TOOL, (), "n1")
    host.start("here", TOOL, (), "")
    for worker in ("far", "here"):
        host.send(worker, {"type": kind})
        host.send(worker, {"type": "move"})
    far = [each.frame.meta for each in told(host, "n1") if isinstance(each, SendFrame)]
    here = host._local.sent  # type: ignore[attr-defined]
    assert far == here == [{"type": kind, "latency_wait_s": 7.0}, {"type": "move"}]


# -- nodes that join, drain and are lost --------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one number."""
    now_s = [1000.0]
    monkeypatch.setattr(membership, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    return now_s


def join(host: ClusterHost, name: str, ends_in_s: float | None = None) -> None:
    """Have a node's agent say that it takes part, with a card."""
    host._launcher.joined = lambda *names: None  # type: ignore[method-assign]
    host._joined(host._nodes[name], Joined((CARD,), ends_in_s, ("its driver is old",)))


def lose(host: ClusterHost, name: str) -> None:
    """Have a node be lost."""
    host._launcher.gone = lambda name: None  # type: ignore[method-assign]
    host._engine.loop = SimpleNamespace(call_soon_threadsafe=lambda act: None)  # type: ignore[assignment]
    host._nodes[name].endpoint = SimpleNamespace(drop=None)  # type: ignore[assignment]
    host._lost(host._nodes[name], "no word from it")


def test_a_node_brings_its_devices_under_its_name(host: ClusterHost) -> None:
    said: list[str] = []
    host._say = said.append
    join(host, "n1")
    join(host, "n2")
    first, second = host.poll(0.0)
    assert isinstance(first, DevicesJoined) and isinstance(second, DevicesJoined)
    assert [d.name for d in (*first.devices, *second.devices)] == ["n1/cuda:0", "n2/cuda:0"]
    assert said == ["n1: its driver is old", "n2: its driver is old"]


def test_what_went_with_its_node_is_nobodys_fault(host: ClusterHost) -> None:  # W4
    host._say = lambda line: None
    join(host, "n1")
    host.poll(0.0)
    host.start("model", TOOL, (CARD.on("n1"),))
    host.start("other", TOOL, (CARD.on("n2"),))
    node = host._nodes["n1"]
    lose(host, "n1")
    left, gone = host.poll(0.0)
    assert isinstance(left, DevicesLeft) and left.names == ("n1/cuda:0",)
    assert isinstance(gone, WorkerGone) and gone.worker_id == "model"
    assert gone.blameless and not gone.expected and "no word from it" in gone.reason
    # What it sent before it was lost, and arrives only now, is nobody's answer any more.
    node.workers.clear()
    host._answered(node, WorkerFrame("model", Frame({"type": "done"}, [])))
    assert host.poll(0.0) == []
    host._lost(node, "again")
    assert host.poll(0.0) == [], "lost once"


def test_a_node_whose_time_is_nearly_up_gets_nothing_new(
    host: ClusterHost, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snakemake_executor_gpupool.hosts.cluster.host.time", membership.time)
    host._say = lambda line: None
    join(host, "n1", ends_in_s=100.0)
    join(host, "n2")
    first, second = host.poll(0.0)
    assert isinstance(first, DevicesJoined) and first.ends_at_s == clock[0] + 100.0
    assert isinstance(second, DevicesJoined) and second.ends_at_s == math.inf
    clock[0] += 100.0 - membership.DRAIN_S - 1.0
    assert host.poll(0.0) == []
    clock[0] += 2.0
    (left,) = host.poll(0.0)
    assert isinstance(left, DevicesLeft) and left.names == ("n1/cuda:0",)
    host.start("no device", TOOL, ())
    assert not told(host, "n1") and len(told(host, "n2")) == 1
    clock[0] += 5.0
    assert host.poll(0.0) == [], "said once"


def test_a_worker_elsewhere_that_broke_the_protocol_is_ended_there(host: ClusterHost) -> None:
    host.start("model", TOOL, (CARD.on("n1"),))
    assert host.believes("model")
    host.reject("model", "it danced")
    assert not host.believes("model")
    stop = told(host, "n1")[-1]
    assert isinstance(stop, StopProcess) and stop.force and "it danced" in stop.complaint


def test_frames_are_of_workers_that_are_there_and_an_end_is_told_once(host: ClusterHost) -> None:
    host.start("model", TOOL, (CARD.on("n1"),))
    node = host._nodes["n1"]
    for worker in ("model", "another"):
        host._answered(node, WorkerFrame(worker, Frame({"type": "done"}, [b"12345"])))
    (frame,) = host.poll(0.0)
    assert isinstance(frame, FrameArrived) and frame.worker_id == "model"
    assert host.carried.in_messages == 5
    end = ProcessGone("model", "exit code 3", is_expected=False)
    host._answered(node, end)
    host._answered(node, end)
    (gone,) = host.poll(0.0)
    assert isinstance(gone, WorkerGone) and not gone.blameless


FRAME = Frame({"type": "done", "batch": 1}, [b"result", SpoolFile("/spool/x", 5)])
SEEDED = Mode(is_reproducible=True, seed=3, kind="A100")
CHAIN_TOOL = ToolRef("a.py:A", "/flow", "python", "/env", ("b.py:B",), "enter", mode=SEEDED)
IMAGE = Container("/i.sif", "i.sif", "sha256:0", "1.2.3.4", "-B /d")
COMMAND = ShellCommand("echo \udcff", "/bin/sh", {"C": "d"}, ("E",), ("f", "g"), 5.0, "/tmp", True)
CONTAINED = replace(CHAIN_TOOL, container=IMAGE)


@pytest.mark.parametrize(
    "message",
    [
        Begin("/run", "id", "/flow", "/probe", "t", "cuda", 9.0, 5.0, None, {"A": "b"}),
        StartProcess("w", CHAIN_TOOL, ("cuda:0", "cuda:1")),
        StartProcess("w", CONTAINED, ()),
        SendFrame("w", FRAME),
        StopProcess("w", True, "hung"),
        RunCommand(1, COMMAND, "/flow", {"A": "b"}, "/log", 2.5, 3),
        CommandDone(1, -1000, "said \ufffd", has_log=True),
        End(),
        Joined((CARD, Device("cpu:0", "cpu", 0)), 60.5, ("a note",), 8),
        Unfit("no"),
        Offer((CARD,)),
        WorkerFrame("w", FRAME),
        ProcessGone("w", "exit code 0", True),
    ],
)
def test_messages_between_coordinator_and_agents_travel(message: Message) -> None:
    assert unpack(pack(message)) == message


@pytest.mark.parametrize("meta", [{"type": "odd"}, {"type": "unfit"}, {"type": "end", "why": "x"}])
def test_what_is_no_message_is_said_to_be_none(meta: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="no message between coordinator and agent"):
        unpack(b"".join(encode(meta)))
