"""A worker keeps results for other runs only under the name of what it has loaded (C2)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import pack
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker import run_store
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.loaded import for_files
from snakemake_executor_gpupool.worker.observed import Observer
from snakemake_executor_gpupool.worker.server import Server


class Reads(Tool):
    def load(self, device: str) -> None:
        self.weights = Path(self.params.model).read_text()

    def run(self, items: list[Any]) -> list[Any]:
        return [self.weights + item for item in items]


class Heard:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    prepared = None

    def overlap(self, prepare: Any) -> None:
        """Do everything in turn."""

    def later(self, act: Callable[[], None]) -> None:
        act()

    def settle(self) -> None:
        pass

    def send(self, meta: dict[str, Any], blobs: Any = None) -> None:
        self.sent.append(meta)


@pytest.mark.parametrize("changes", [False, True])
def test_weights_that_change_before_they_are_loaded_are_not_kept(
    tmp_path: Path, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # C2
    # This process has read much else.
    monkeypatch.setattr(Observer, "look_around", lambda self: None)
    monkeypatch.setattr(run_store, "OBSERVER", Observer())
    weights, store = tmp_path / "m.pt", tmp_path / "kept"
    weights.write_text("old")
    (tmp_path / "spool").mkdir()
    store.mkdir(mode=0o700)
    params = {"model": str(weights)}
    described = describe_model(for_files(Reads, params))
    if changes:
        weights.write_text("new")
    channel: Any = Heard()
    server = Server(channel, Reads, Spool(str(tmp_path / "spool"), shared=False), str(tmp_path))
    data = pickle.dumps(params)
    load = {"type": "load", "device": "cpu", "model": described["model"]}
    server.handle(Frame(load, [data]))
    key = ["", described["model"], described["group"], "x"]
    run = {"type": "run", "batch": 1, "store": [str(store)], "keys": [key]}
    server.handle(Frame(run, [data, b"".join(pack("x"))]))
    assert [meta["type"] for meta in channel.sent] == ["loaded", "done"], channel.sent
    assert channel.sent[1]["errors"] == []
    files = [path for path in store.rglob("*") if path.is_file()]
    assert bool(files) is not changes, channel.sent
