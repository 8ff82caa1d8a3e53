"""Where a cluster's processes go, and what is added to their frames."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.base import WorkerGone
from snakemake_executor_gpupool.hosts.cluster.host import ClusterHost
from snakemake_executor_gpupool.hosts.cluster.nodes import Node
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.requests import ToolRef

TOOL = ToolRef("tool", "/", "python")
CARD = Device("cuda:0", "cuda", 0)


class Local:
    """This machine, which only notes what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.sent: list[dict[str, Any]] = []

    def start(self, worker_id: str, *where: object) -> None:
        self.started.append(worker_id)

    def send(self, worker_id: str, meta: dict[str, Any], blobs: object = ()) -> None:
        self.sent.append(meta)

    def poll(self, timeout_s: float) -> list[object]:
        return []

    def wake(self) -> None:
        pass


class Told(Node):
    """A node that only notes what it is told."""

    def tell(self, kind: str, fields: dict[str, Any], blobs: object = ()) -> None:
        self.__dict__.setdefault("told", []).append((kind, fields))


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


def told(host: ClusterHost, node: str) -> list[tuple[str, dict[str, Any]]]:
    """What a node was told."""
    return host._nodes[node].__dict__.get("told", [])


def test_a_process_goes_where_it_is_to_be(host: ClusterHost) -> None:
    host.start("model", TOOL, (CARD.on("n1"),))
    host.start("files", TOOL, (), "n2")
    host.start("here", TOOL, (), "")
    assert [fields["worker"] for _, fields in told(host, "n1")] == ["model"]
    assert [fields["worker"] for _, fields in told(host, "n2")] == ["files"]
    assert host._local.started == ["here"]  # type: ignore[attr-defined]
    host.start("no device", TOOL, ())
    assert len(told(host, "n1")) == 2, "n2 has one without a device already"


def test_a_node_that_is_gone_is_nobodys_fault(host: ClusterHost) -> None:
    host.start("files", TOOL, (), "n3")
    (gone,) = host.poll(0.0)
    assert isinstance(gone, WorkerGone) and gone.blameless and not gone.expected


@pytest.mark.parametrize("kind", ["read", "write", "publish", "run", "chain"])
def test_whoever_reads_files_of_others_is_told_how_long_to_wait(
    host: ClusterHost, kind: str
) -> None:
    host.start("far", TOOL, (), "n1")
    host.start("here", TOOL, (), "")
    for worker in ("far", "here"):
        host.send(worker, {"type": kind})
        host.send(worker, {"type": "move"})
    far = [fields["meta"] for name, fields in told(host, "n1") if name == "send"]
    here = host._local.sent  # type: ignore[attr-defined]
    assert far == here == [{"type": kind, "latency_wait_s": 7.0}, {"type": "move"}]
