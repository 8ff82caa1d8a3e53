"""A host in memory whose workers answer, as those of a simple tool would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.hosts.base import FrameArrived
from snakemake_executor_gpupool.testing.fake_host import FakeHost
from snakemake_executor_gpupool.testing.world_options import INFO
from snakemake_executor_gpupool.wire.frames import Blob, Frame

ERROR = {"kind": "tool", "type": "ValueError", "message": "bad item", "traceback": ""}


class AnsweringHost(FakeHost):
    """Reads, loads, computes and writes without a file: item ``a`` has the result ``a!``.

    Attributes
    ----------
    items
        What a job is read as, by its number; any other job has one item, its number.
    bad
        Items for which the tool raises.
    silent
        Kinds of frames that get no answer.
    written
        What was to be written for each job, in the order of its items.
    """

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__(waits=waits)
        self.items: dict[int, list[str]] = {}
        self.bad: set[str] = set()
        self.silent: set[str] = set()
        self.written: dict[int, list[bytes]] = {}
        self.computed: list[str] = []

    def says(self, worker_id: str, kind: str, blobs: Sequence[Blob] = (), **meta: Any) -> None:
        """Have a worker send a frame."""
        self.events.append(FrameArrived(worker_id, Frame({"type": kind, **meta}, list(blobs))))
        self.wake()

    def start(self, worker_id: str, *tool_devices_node: Any, is_ahead: bool = False) -> None:
        super().start(worker_id, *tool_devices_node)
        if "tool" not in self.silent:
            self.says(worker_id, "tool", info=INFO, seconds=0.1, versions={})

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        super().send(worker_id, meta, blobs)
        if meta["type"] not in self.silent:
            getattr(self, f"_{meta['type']}")(worker_id, meta, blobs)

    def _read(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        items = self.items.get(meta["job"], [str(meta["job"])])
        columns = {"keys": items, "costs": [1.0] * len(items), "tokens": [1] * len(items)}
        model = {"model": "m", "model_label": "m", "group": "g", "short_tokens": 0}
        more = {**columns, "names": items, "kept": [], "last": True, "follow": []}
        payloads = [item.encode() for item in items]
        self.says(worker_id, "items", payloads, job=meta["job"], **model, **more)

    def _foresee(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        model = {"model": "m", "model_label": "m", "group": "g", "short_tokens": 0}
        columns: dict[str, list[Any]] = {"keys": [], "costs": [], "tokens": []}
        more = {"batch_tokens": None, "kept": 0, "count": 0, "whole": True}
        self.says(worker_id, "foreseen", job=meta["job"], **model, **columns, **more)

    def _check(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        self.says(worker_id, "checked", holds=True)

    def _load(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        figures = {"batch_tokens": 8, "quick_tokens": 0, "seconds": 0.1, "peak_mib": None}
        self.says(worker_id, "loaded", **figures, versions={})

    def _run(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        items = [blob.decode() for blob in blobs[1:] if isinstance(blob, bytes)]
        self.computed += items
        failed = [number for number, item in enumerate(items) if item in self.bad]
        outcomes = {"items": len(items), "failed": failed, "errors": [ERROR] * len(failed)}
        results = [f"{item}!".encode() for item in items if item not in self.bad]
        figures = {"out_of_memory": [], "seconds": 0.1, "peak_mib": None}
        self.says(worker_id, "done", results, batch=meta["batch"], **outcomes, **figures)

    def _write(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob]) -> None:
        results = [blob for blob in blobs[1:] if isinstance(blob, bytes)]
        order = range(len(results)) if meta["order"] is None else meta["order"]
        self.written[meta["job"]] = [results[place] for place in order]
        self.says(worker_id, "written", job=meta["job"], seconds=0.0)
