"""What a call of a warm worker costs: frames there and back, small and large.

A tool that returns its item is called through the machine's own seam, as the pool's
run loop does it, beside a bare pipe and a pipe of JSON lines, which is what such
workers often speak::

    python bench/frames.py
"""

from __future__ import annotations

import array
import json
import multiprocessing
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import report
from measure import OUT, end_on_sigterm, machine

from snakemake_executor_gpupool.hosts.base import FrameArrived, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.payload import load_payload, pack
from snakemake_executor_gpupool.wire.requests import ToolRef
from snakemake_executor_gpupool.wire.spool import Discards, Spool

ECHO = Path(__file__).resolve().parent / "tools" / "echo.py"
SMALL_CALLS = 2_000
LARGE_CALLS = 7
FLOATS = 10_000_000
MAX_SMALL_MS = 0.2
MAX_LARGE_S = 0.08
JSON_WORKER = """
import json, sys
for line in sys.stdin:
    sys.stdout.write(json.dumps(json.loads(line)) + "\\n")
    sys.stdout.flush()
"""


class Rival:
    """A process that can be called."""

    def call(self, item: object) -> object:
        """Send an item, return what came back."""
        raise NotImplementedError

    def settle(self) -> None:
        """Do what need not be done before a result is used."""


class WarmWorker(Rival):
    """One worker that echoes, behind the seam to the machine."""

    def __init__(self) -> None:
        self.paths = RunPaths(OUT / "frames")
        self.paths.create()
        self.spool = Spool(self.paths.spools)
        self.host = LocalHost(self.paths, threads=1)
        self.host.start("echo", ToolRef(f"{ECHO}:Echo", str(ECHO.parent), sys.executable), ())
        self._answer()
        self.host.send("echo", {"type": "load", "device": "cpu"}, [pickle.dumps({})])
        self._answer()
        self.params = pickle.dumps({})
        self.used: list[Blob] = []
        self.discards = Discards()

    def _answer(self) -> Frame:
        while True:
            for event in self.host.poll(10.0):
                if isinstance(event, WorkerGone):
                    raise SystemExit(f"the worker ended: {event.reason}")
                if isinstance(event, FrameArrived):
                    return event.frame

    def call(self, item: object) -> object:
        """Send an item, return the result."""
        blob = self.spool.put(pack(item))
        meta = {"type": "run", "batch": 1, "store": "", "entries": [""]}
        self.host.send("echo", meta, [self.params, blob])
        frame = self._answer()
        self.used += [blob, frame.blobs[0]]
        return load_payload(frame.blobs[0])

    def settle(self) -> None:
        """Remove files, as the pool does once a result has been handed on."""
        while self.used:
            self.discards.discard(self.used.pop())

    def close(self) -> None:
        """End the worker."""
        self.host.close(on_end=lambda end: None)
        self.paths.remove_spools()


def echo_pipe(connection) -> None:
    """Send back what comes."""
    while (data := connection.recv_bytes()) != b"":
        connection.send_bytes(data)


class BarePipe(Rival):
    """A process that sends bytes back, without looking at them."""

    def __init__(self) -> None:
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=echo_pipe, args=(theirs,), daemon=True)
        self.process.start()

    def call(self, item: object) -> object:
        """Send an item, return what came back."""
        self.ours.send_bytes(pickle.dumps(item, 5))
        return pickle.loads(self.ours.recv_bytes())

    def close(self) -> None:
        """End the process."""
        self.ours.send_bytes(b"")
        self.process.join()


class JsonLines(Rival):
    """A process that reads and writes lines of JSON."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", JSON_WORKER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)

    def call(self, item: object) -> object:
        """Send an item, return what came back; an array goes as a list of numbers."""
        plain = item.tolist() if isinstance(item, np.ndarray) else item
        self.process.stdin.write(json.dumps(plain) + "\n")
        self.process.stdin.flush()
        back = json.loads(self.process.stdout.readline())
        return array.array("f", back) if isinstance(item, np.ndarray) else back

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def median_s(worker: Rival, item: object, times: int) -> float:
    """Return the median time of a call, after one that does not count."""
    took = []
    for _ in range(times + 1):
        start_s = time.perf_counter()
        worker.call(item)
        took.append(time.perf_counter() - start_s)
        worker.settle()
    return statistics.median(took[1:])


def main() -> int:
    """Run the bench; return 0 if both targets are reached."""
    end_on_sigterm()
    print("\n".join(report.facts_lines(machine())))
    floats = np.random.default_rng(0).random(FLOATS, dtype=np.float32)
    print(f"\n| | small call, ms | {FLOATS:,} float32, s |\n|---|---|---|")
    figures = {}
    for label, rival, share in (
        ("bare pipe, bytes only", BarePipe, 1),
        ("lines of JSON (a tenth of it, times ten)", JsonLines, 10),
        ("gpupool", WarmWorker, 1),
    ):
        worker = rival()
        small_s = median_s(worker, "MKTAYIAKQR", SMALL_CALLS)
        assert np.array_equal(worker.call(floats[:1000]), floats[:1000])
        large_s = share * median_s(worker, floats[: FLOATS // share], LARGE_CALLS // share + 1)
        worker.close()
        figures[label] = small_s, large_s
        print(f"| {label} | {1e3 * small_s:.3f} | {large_s:.3f} |", flush=True)
    small_s, large_s = figures["gpupool"]
    targets = [
        report.Target("small call, ms", 1e3 * small_s, MAX_SMALL_MS),
        report.Target("large call, s", large_s, MAX_LARGE_S),
    ]
    print("\n" + "\n".join(map(str, targets)))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
