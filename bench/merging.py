"""Chains of small models, merged and not: throughput, latency, and what dispatching takes.

Each is measured from the start of a pool, as every run of Snakemake has it, processes and models
included; the targets are for that. Once more with all of these warm it shows what dispatching
alone takes: of requests that are all there at once, stage by stage shares micro-batches, too.

The pool is driven as Snakemake drives it, without Snakemake's own time: a job is submitted
once the one before it was reported. Merged and not take turns, so that what else the machine
does falls on both alike::

    python bench/merging.py                        500 requests, chains of 2, 3 and 6
    python bench/merging.py --requests 50 --repeats 1       a quick look
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import pickle
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import report
from tools.layer import WIDTH

from snakemake_executor_gpupool.frontends.snakemake.translate import input_bytes
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import build_config
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

TOOL = f"{Path(__file__).with_name('tools') / 'layer.py'}:Layer"
MEMORY = Path("/dev/shm")
#: Tokens (rows) of a request.
SHORT, LONG, BULK = 8, 256, 1024
#: Bounds of merged / not: time of short requests, latency of one, time of long requests.
SHORT_TIME, LATENCY, LONG_TIME = 0.5, 0.35, 1.03
#: The 95th percentile of a short request's wait, in micro-batches of the bulk work beside it.
WAIT_BATCHES = 2.0
#: Lone requests whose latencies are measured, and those beside bulk work.
LONE, BESIDE = 20, 40
#: Lengths of chains, and how often two pools take turns with long requests.
STAGES = (2, 3, 6)
TURNS = 10
#: Bulk requests, and how often the layer is applied to each: a micro-batch outlasts its reading.
BULK_REQUESTS, BULK_DEPTH = 160, 60


class Driver:
    """A pool, and rows of jobs that are submitted one after the other.

    Parameters
    ----------
    room
        An empty directory.
    merges
        Whether jobs come with those that follow them.
    """

    #: The devices that the pool manages.
    devices: str | list[int] = "cpu:1"
    #: The tool of all stages, and its params beside the model's number.
    tool = TOOL
    params: Mapping[str, object] = {}
    #: What it knows of the environment.
    env: Mapping[str, str] = {}

    def __init__(self, room: Path, merges: bool) -> None:
        self.room, self._merges = room, merges
        self._ids = itertools.count(1)
        self._reports: queue.SimpleQueue[JobReport | BaseException] = queue.SimpleQueue()
        self._rest: dict[int, list[Request]] = {}
        config = build_config(run_root=room / "run", managed_devices=self.devices, env=self.env)
        put = self._reports.put
        self.pool = Pool(config, Callbacks(put, lambda *_: None, put, lambda line: None))
        self._tool = ToolRef(self.tool, str(room), sys.executable)

    def row(self, name: str, rows: int, stages: int, depth: int = 1) -> list[Request]:
        """Return the requests of a chain; its first input is written."""
        rng = np.random.default_rng(abs(hash(name)) % 2**32)
        paths = [f"stage{stage}/{name}.f32" for stage in range(stages + 1)]
        for path in paths:
            (self.room / path).parent.mkdir(exist_ok=True)
        rng.standard_normal((rows, WIDTH)).astype(np.float32).tofile(self.room / paths[0])
        pairs = itertools.pairwise(paths)
        return [self._request(name, n, *pair, depth) for n, pair in enumerate(pairs)]

    def _request(self, name: str, stage: int, source: str, target: str, depth: int) -> Request:
        params = {"model": stage, "depth": depth, **self.params}
        job = Job(f"stage{stage}", {"name": name}, input=[source], output=[target], params=params)
        return Request(
            job_id=next(self._ids),
            title=f"rule stage{stage} (name={name})",
            tool=self._tool,
            job=pickle.dumps(job),
            params=pickle.dumps(params),
            cwd=str(self.room),
            bare=pickle.dumps(job),
            identity=(f"stage{stage}", name),
            input_bytes=input_bytes([str(self.room / source)]),
        )

    def submit(self, rows: Iterable[list[Request]]) -> None:
        """Submit the next job of each row."""
        ready = []
        for first, *later in rows:
            self._rest[first.job_id] = later
            follow = tuple(later) if self._merges else ()
            ready.append(Request(**{**vars(first), "follow": follow}))
        self.pool.submit(ready)

    def wait(self, jobs: int) -> dict[int, float]:
        """Submit what follows, until so many jobs are done; return when each was."""
        done_s = {}
        while len(done_s) < jobs:
            told = self._reports.get(timeout=300)
            if isinstance(told, BaseException) or told.error is not None:
                raise SystemExit(f"a job failed: {told}")
            done_s[told.job_id] = time.perf_counter()
            later = self._rest.pop(told.job_id)
            if later:
                self.submit([later])
        return done_s

    def run(self, rows: list[list[Request]]) -> float:
        """Run rows to their ends; return the seconds."""
        started_s = time.perf_counter()
        self.submit(rows)
        self.wait(sum(map(len, rows)))
        return time.perf_counter() - started_s

    def computed_s(self) -> tuple[float, int]:
        """Return the seconds that workers computed so far, and the dispatches."""
        seconds = [event["seconds"] for event in self._events("batch_done")]
        return sum(seconds), len(seconds)

    def bulk_batch_s(self) -> float:
        """Return the median seconds of a micro-batch of bulk work."""
        bulk = {e["batch"] for e in self._events("batch_sent") if e["longest_tokens"] == BULK}
        done = self._events("batch_done")
        return statistics.median(e["seconds"] for e in done if e["batch"] in bulk)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.pool.paths.events.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


def measured(stages: int, tokens: int, requests: int, merges: bool) -> dict[str, float]:
    """Run requests through a chain, twice with a pool of their own; return what it took."""
    with opened(merges) as driver:
        run_s = driver.run(rows(driver, "r", tokens, stages, requests))
    with opened(merges) as driver:
        first_s = driver.run(rows(driver, "first", tokens, stages, 1))
        lone = [driver.run(rows(driver, f"lone{n}", tokens, stages, 1)) for n in range(LONE)]
        before_s, before = driver.computed_s()
        warm_s = driver.run(rows(driver, "r", tokens, stages, requests))
        after_s, after = driver.computed_s()
    return {
        "run_s": run_s,
        "first_s": first_s,
        "warm_s": warm_s,
        "latency_s": statistics.median(lone),
        "dispatches": after - before,
        "share": 1.0 - min((after_s - before_s) / warm_s, 1.0),
    }


@contextlib.contextmanager
def opened(merges: bool) -> Iterator[Driver]:
    """Open a pool in a directory of its own; in memory, so that no disk adds its noise."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as room:
        driver = Driver(Path(room), merges)
        try:
            yield driver
        finally:
            driver.pool.close()


def rows(driver: Driver, name: str, tokens: int, stages: int, count: int) -> list[list[Request]]:
    """Return so many requests through a chain."""
    return [driver.row(f"{name}{number}", tokens, stages) for number in range(count)]


def compare(stages: int, tokens: int, requests: int, repeats: int) -> dict[str, float]:
    """Print a line for merged and one for not; return the ratios of times."""
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(repeats):
        for merges in (True, False) if number % 2 else (False, True):
            runs[merges].append(measured(stages, tokens, requests, merges))
    middle = {
        merges: {name: statistics.median(run[name] for run in each) for name in each[0]}
        for merges, each in runs.items()
    }
    for merges, figures in middle.items():
        say(
            f"| {stages} | {tokens} | {'merged' if merges else 'apart'} "
            f"| {requests / figures['run_s']:.0f} | {1000 * figures['first_s']:.0f} "
            f"| {requests / figures['warm_s']:.0f} | {1000 * figures['latency_s']:.1f} "
            f"| {figures['dispatches']:.0f} | {100 * figures['share']:.0f}% |"
        )
    times = [name for name in middle[True] if name.endswith("_s")]
    return {name: middle[True][name] / middle[False][name] for name in times}


def long_ratio(requests: int) -> float:
    """Return the time of long requests with merging on over that with it off, all models loaded.

    Both ways do the same then. Two pools take turns, so that the noise of the machine, which is
    more than the difference, falls on both alike.
    """
    took_s = {True: 0.0, False: 0.0}
    for stages in STAGES:
        with opened(True) as merging, opened(False) as plain:
            drivers = {True: merging, False: plain}
            for driver in drivers.values():
                driver.run(rows(driver, "first", LONG, stages, 2))
            for turn in range(TURNS):
                for merges in (True, False) if turn % 2 else (False, True):
                    made = rows(drivers[merges], f"t{turn}-", LONG, stages, requests // TURNS)
                    took_s[merges] += drivers[merges].run(made)
    return took_s[True] / took_s[False]


def stream() -> float:
    """Return the 95th percentile of short requests' waits, in micro-batches of bulk beside."""
    with opened(merges=False) as driver:
        driver.run(rows(driver, "warm", SHORT, 1, 1))
        driver.submit(driver.row(f"bulk{n}", BULK, 1, BULK_DEPTH) for n in range(BULK_REQUESTS))
        bulk_done = len(driver.wait(2))
        waits_s = []
        for number in range(BESIDE):
            (request,) = driver.row(f"short{number}", SHORT, 1)
            started_s = time.perf_counter()
            driver.submit([[request]])
            while request.job_id not in (done_s := driver.wait(1)):
                bulk_done += 1
            waits_s.append(done_s[request.job_id] - started_s)
        if bulk_done == BULK_REQUESTS:
            raise SystemExit("the bulk work was over too soon")
        batch_s = driver.bulk_batch_s()
    return sorted(waits_s)[math.ceil(0.95 * len(waits_s)) - 1] / batch_s


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def main() -> int:
    """Run all; return 0 if every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=500, help="(default: 500)")
    parser.add_argument("--repeats", type=int, default=1, help="(default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--brief", action="store_true", help="short requests, 6 stages, no more")
    options = parser.parse_args()
    if options.device == "cuda":
        Driver.devices = [0]
    os.environ["GPUPOOL_PROFILE"] = "off"
    say("| | | | from the start | | warm | | | |")
    say("|---|---|---|---|---|---|---|---|---|")
    say(
        "| stages | tokens | | requests/s | one request, ms | requests/s | one request, ms "
        "| dispatches | not computing |"
    )
    if options.brief:
        brief = compare(6, SHORT, options.requests, options.repeats)
        say(json.dumps({"ratios": {name: round(ratio, 3) for name, ratio in brief.items()}}))
        return 0
    ratios = {
        (stages, tokens): compare(stages, tokens, options.requests, options.repeats)
        for stages in STAGES
        for tokens in (SHORT, LONG)
    }
    wait = stream()
    brief = ratios[6, SHORT]
    long_time = long_ratio(options.requests)
    targets = [
        report.Target("time of short requests, 6 stages", brief["run_s"], SHORT_TIME),
        report.Target("latency of one request, 6 stages", brief["first_s"], LATENCY),
        report.Target("95th percentile of waits beside bulk work", wait, WAIT_BATCHES),
        report.Target("time of long requests, warm", long_time, LONG_TIME),
    ]
    say(
        f"\n- warm, 6 stages: time of short requests {brief['warm_s']:.2f}, latency of one "
        f"{brief['latency_s']:.2f}"
    )
    say("\n".join(map(str, targets)))
    say(json.dumps({"ratios": {target.label: round(target.ratio, 3) for target in targets}}))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
