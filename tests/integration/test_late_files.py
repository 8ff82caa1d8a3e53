"""Files that another node has written appear late, or never: real worker processes wait (W2).

This machine's files are seen at once; so they are made late, while a process waits for them.
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.hosts.base import FrameArrived, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.tool_api.short_requests import TRIED
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.frames import Blob, Frame, SpoolFile
from snakemake_executor_gpupool.wire.payload import load_payload, pack
from snakemake_executor_gpupool.wire.requests import ToolRef
from snakemake_executor_gpupool.wire.spool import Spool

TOOL = f"{Path(__file__).parent.parent / 'tools' / 'textual.py'}:Textual"
LATE_S = 0.4
#: Longer than any file is late, and than the machine may be slow.
PATIENT = {"latency_wait_s": 60.0}
IMPATIENT = {"latency_wait_s": 0.2}


class Worker:
    """A process of a node's, and what it answers."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.paths = RunPaths(directory / "run", shared=True)
        self.paths.create()
        self.directory = directory
        self.spool = Spool(self.paths.spools, shared=True)
        self.host = LocalHost(self.paths, threads=1)
        #: What one look at the channels found beyond the frame that was asked for.
        self._arrived: deque[Frame] = deque()
        tool = ToolRef(TOOL, str(directory), sys.executable, more=more)
        self.host.start("worker", tool, ())
        assert self.answer().type == "tool"

    def answer(self) -> Frame:
        """The next frame."""
        deadline_s = time.monotonic() + 60.0
        while not self._arrived and time.monotonic() < deadline_s:
            for event in self.host.poll(1.0):
                assert not isinstance(event, WorkerGone), event.reason
                if isinstance(event, FrameArrived):
                    self._arrived.append(event.frame)
        assert self._arrived, "no answer"
        return self._arrived.popleft()

    def ask(self, kind: str, blobs: list[Blob], **meta: Any) -> Frame:
        """Send a frame and return the answer."""
        self.host.send("worker", {"type": kind, **meta}, blobs)
        return self.answer()

    def job(self) -> bytes:
        """A job from ``in.txt`` to ``out.txt``."""
        files = {name: str(self.directory / f"{name}.txt") for name in ("in", "out")}
        named = {name: Named.from_pairs([(None, path)]) for name, path in files.items()}
        return pickle.dumps(Job(input=named["in"], output=named["out"], rule="up"), 5)

    def blobs(self, *values: str) -> list[SpoolFile]:
        """Values in a file of the spool, as another node leaves them."""
        with self.spool.bundle() as bundle:
            for value in values:
                bundle.add(pack(value))
            blobs = bundle.take()
        assert all(isinstance(blob, SpoolFile) for blob in blobs)
        return blobs  # type: ignore[return-value]

    def load(self) -> None:
        """Have it load its model, or models."""
        params = pickle.dumps({}, 5)
        assert self.ask("load", [params, params], device="cpu", model="").type == "loaded"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A process that serves one tool."""
    started = Worker(tmp_path)
    yield started
    started.host.close(on_end=lambda end: None)


def later(path: Path, data: bytes) -> None:
    """Make a file a little later: first half of it, as its writer is not done."""

    def make() -> None:
        path.write_bytes(data[: len(data) // 2])
        time.sleep(LATE_S / 2)
        path.write_bytes(data)

    threading.Timer(LATE_S / 2, make).start()


def taken_away(blob: SpoolFile) -> tuple[Path, bytes]:
    """Remove a blob's file, and return where it was and what was in it."""
    path = Path(blob.path)
    data = path.read_bytes()
    path.unlink()
    return path, data


READ = {
    "job": 1,
    "cwd": "/",
    "follow": [],
    "store": None,
    "space": "",
    "hashes": True,
    "items": True,
    "strict": False,
    "prints_apart": False,
}


def test_a_late_input_is_waited_for(worker: Worker) -> None:
    threading.Timer(LATE_S, (worker.directory / "in.txt").write_text, ["a line\n"]).start()
    answer = worker.ask("read", [worker.job()], **READ, **PATIENT)
    assert (answer.type, len(answer.blobs)) == ("items", 1), answer.meta


def test_an_input_that_never_appears_is_told(worker: Worker) -> None:
    answer = worker.ask("read", [worker.job()], **READ, **IMPATIENT)
    assert answer.type == "read_failed"
    path = worker.directory / "in.txt"
    assert answer.meta["error"]["message"].startswith(f"input {path} is not there")
    assert answer.meta["error"]["kind"] == "input"


def test_items_of_a_job_lie_in_one_file(worker: Worker) -> None:
    lines = [f"{n}".ljust(1000, "x") for n in range(1200)]
    (worker.directory / "in.txt").write_text("\n".join(lines))
    worker.host.send("worker", {"type": "read", **READ, **PATIENT}, [worker.job()])
    frames = [worker.answer()]
    while not frames[-1].meta["last"]:
        frames.append(worker.answer())
    paths = [{blob[0] for blob in frame.blobs} for frame in frames]
    assert len(frames) > 2 and all(len(each) == 1 for each in paths)
    assert len(set.union(*paths)) == len(frames)
    assert [load_payload(blob) for frame in frames for blob in frame.blobs] == lines


WRITE = {"job": 1, "cwd": "/", "order": [1, 0, 1], "names": ["a", "b", "c"], "updates": []}
WRITE |= {"touched": [], "directories": [], "hashes": True, "prints_apart": False}
WRITE |= {"settled": 0, "log_text": ""}


def test_late_results_are_waited_for(worker: Worker) -> None:
    results = worker.blobs("x" * 20_000, "y" * 20_000)
    later(*taken_away(results[0]))
    answer = worker.ask("write", [worker.job(), *results], **WRITE, **PATIENT)
    assert answer.type == "written", answer.meta
    lines = (worker.directory / "out.txt").read_text().splitlines()
    assert lines == ["y" * 20_000, "x" * 20_000, "y" * 20_000]


def test_results_that_never_appear_are_told(worker: Worker) -> None:
    results = worker.blobs("x" * 20_000, "y" * 20_000)
    path, _ = taken_away(results[0])
    answer = worker.ask("write", [worker.job(), *results], **WRITE, **IMPATIENT)
    assert answer.type == "write_failed"
    message = answer.meta["error"]["message"]
    assert str(path) in message and "raise --latency-wait" in message
    assert not (worker.directory / "out.txt").exists()


def run(worker: Worker, payloads: list[Blob], wait: dict[str, float]) -> Frame:
    """Have items computed."""
    params, meta = pickle.dumps({}, 5), {"batch": 1, "store": None, "keys": [None] * len(payloads)}
    return worker.ask("run", [params, *payloads], **meta, **wait)


def test_late_items_are_waited_for(worker: Worker) -> None:
    worker.load()
    items = worker.blobs("a" * 20_000, "b" * 20_000)
    later(*taken_away(items[0]))
    answer = run(worker, list(items), PATIENT)
    assert (answer.meta["items"], answer.meta["failed"]) == (2, [])
    results = [f"{letter * 20_000}.plain" for letter in "AB"]
    assert [load_payload(blob) for blob in answer.blobs] == results
    assert len({blob[0] for blob in answer.blobs}) == 1, "results of a batch are in one file"


def test_items_that_never_appear_fail_alone(worker: Worker) -> None:
    worker.load()
    never, there = worker.blobs("a" * 20_000)[0], worker.blobs("b" * 20_000)[0]
    path, _ = taken_away(never)
    small = b"".join(pack("c"))
    answer = run(worker, [never, there, small], IMPATIENT)
    [error] = answer.meta["errors"]
    assert (answer.meta["items"], answer.meta["failed"]) == (3, [0])
    assert str(path) in error["message"] and "raise --latency-wait" in error["message"]
    assert [load_payload(blob) for blob in answer.blobs] == ["B" * 20_000 + ".plain", "C.plain"]


def test_small_results_come_with_the_answer(worker: Worker) -> None:
    worker.load()
    answer = run(worker, [b"".join(pack(word)) for word in ("a", "b")], PATIENT)
    assert all(isinstance(blob, bytes) for blob in answer.blobs)
    assert list(Path(worker.paths.spools[0]).iterdir()) == []


@pytest.mark.parametrize("wait", [PATIENT, IMPATIENT])
def test_a_chain_waits_too_and_what_never_appears_goes_another_way(
    tmp_path: Path, wait: dict[str, float]
) -> None:  # M1
    worker = Worker(tmp_path, TOOL)
    worker.load()
    items = worker.blobs("a" * 20_000)
    path, data = taken_away(items[0])
    if wait is PATIENT:
        later(path, data)
    chain = {"cwd": "/", "keys": ["k"], "known": [False], "order": [0], "names": ["a"]}
    chain |= {"models": [["", "m", "g"], ["", "n", "g"]], "by": "worker"}
    chain |= {"updates": [], "touched": [[], []]}
    meta = {"batch": 1, "store": None, "staged": str(tmp_path / "staged"), "chains": [chain]}
    meta |= {"hashes": True, "offset": 0}
    answer = worker.ask("chain", [worker.job(), worker.job(), *items], **meta, **wait)
    assert (answer.type, answer.meta["stage"]) == ("stage", 0)
    told = [each["chain"] for each in answer.meta["chains"]]
    assert (told, answer.meta["last"]) == (([0], False) if wait is PATIENT else ([], True))
    worker.host.close(on_end=lambda end: None)


def test_items_of_chains_that_take_too_long_go_another_way_but_for_those_tried(
    tmp_path: Path,
) -> None:  # M1 F2
    worker = Worker(tmp_path, TOOL)
    (tmp_path / "in.txt").write_text("x")
    worker.load()
    chains = [
        {"cwd": "/", "keys": [f"k{n}"], "known": [False], "order": [0], "names": ["a"]}
        | {"models": [["", "m", "g"], ["", "n", "g"]], "by": "worker"}
        | {"updates": [], "touched": [[], []], "lent": False, "staged": str(tmp_path / "staged")}
        for n in range(10)
    ]
    meta = {"batch": 1, "store": None, "chains": chains, "hashes": False, "offset": 0}
    blobs = [blob for n in range(10) for blob in (*[worker.job()] * 2, b"".join(pack(f"w{n}")))]
    answer = worker.ask("chain", blobs, **meta, item_limit_s=0.0)
    assert [each["chain"] for each in answer.meta["chains"]] == list(range(TRIED))
    assert [load_payload(blob) for blob in answer.blobs] == [f"W{n}.plain" for n in range(TRIED)]
    assert answer.meta["computed_s"] > 0.0 < answer.meta["files_s"] < answer.meta["seconds"]
    worker.answer()
    answer = worker.ask("chain", blobs, **meta)
    assert [each["chain"] for each in answer.meta["chains"]] == list(range(10))
    worker.host.close(on_end=lambda end: None)
