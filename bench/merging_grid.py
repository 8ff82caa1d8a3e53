"""Chains of three models, merged where it pays (``auto``) and never (``off``), over a grid.

Trivial tools, small torch models, and models that take long to load, on a CPU slot and on one
simulated device that cannot hold all of them; from the start of a pool, and again in the same
pool. Whole runs of Snakemake, and the pool alone, which has no time of Snakemake's to hide in. Both
take turns; a ratio is the median of those of two that follow one another, as a machine's speed
changes::

    python bench/merging_grid.py                                     about five minutes
    python bench/merging_grid.py --requests 10 30 100 300 1000 --repeats 5     the full grid
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report
from measure import OUT, Runs, run_timed
from merging import TOOL, Driver, rows
from rivals import HERE, PROFILE, snakemake
from tools.layer import WIDTH

STAGES, TOKENS = 3, 8
STEP = f"{Path(__file__).with_name('tools') / 'steps.py'}:Step"
SNAKEFILE = HERE / "chains.smk"
MAX_RATIO = 1.02
AGAIN, MAX_SETS = 900, 15
ROOM = OUT / "merging_grid"
NUMBERS = itertools.count()
#: A device that does not exist.
SIMULATED = "1x16GiB"


@dataclass(frozen=True)
class Kind:
    """A kind of model, and where it is."""

    tool: str
    load_s: float = 0.0
    devices: str = "cpu:1"


KINDS = {
    "trivial": Kind(STEP),
    "torch": Kind(TOOL),
    "slow": Kind(STEP, 2.0),
    "slow, one device": Kind(STEP, 2.0, "cuda:0"),
}


class Chains(Driver):
    """A pool, and chains of one kind of model."""

    def __init__(self, room: Path, merges: bool, kind: Kind) -> None:
        self.tool = kind.tool
        self.params = {"load_s": kind.load_s} if kind.tool == STEP else {}
        self.devices, self.env = kind.devices, {"GPUPOOL_SIMULATE": SIMULATED}
        super().__init__(room, merges)


def pools_s(
    kind: Kind, requests: int, order: Sequence[bool]
) -> tuple[dict[bool, float], dict[bool, list[float]]]:
    """Return what requests take the pool alone, merged or not: from its start, and again.

    Few take a few milliseconds, so again are as many sets as make ``AGAIN`` requests, of both pools
    in turns. Of a simulated device it is one, and one pool after the other: a device is one pool's.
    """
    start_s: dict[bool, float] = {}
    again_s: dict[bool, list[float]] = {True: [], False: []}
    is_shared = kind.devices.startswith("cpu")
    sets = max(1, min(MAX_SETS, AGAIN // requests)) if is_shared else 1
    for together in [order] if is_shared else [(merges,) for merges in order]:
        with contextlib.ExitStack() as pools:
            drivers = {}
            for merges in together:
                drivers[merges] = driver = Chains(new_room(), merges, kind)
                pools.callback(driver.pool.close)
                began_s = time.perf_counter()
                driver.run(rows(driver, "first", TOKENS, STAGES, requests))
                start_s[merges] = time.perf_counter() - began_s
            for number in range(sets):
                for merges in together if number % 2 else reversed(together):
                    again = rows(drivers[merges], f"again{number}-", TOKENS, STAGES, requests)
                    again_s[merges].append(drivers[merges].run(again))
    return start_s, again_s


def snakemake_s(kind: Kind, requests: int, merges: bool) -> float:
    """Return what a whole run of Snakemake takes, files on disk."""
    room = new_room()
    (room / "in").mkdir()
    for number in range(requests):
        np.full((TOKENS, WIDTH), number, np.float32).tofile(room / "in" / f"{number}.rows")
    config = [f"rows={requests}", f"inputs={room / 'in'}", f"tool={kind.tool}"]
    options = ["--gpupool-devices", kind.devices, "--gpupool-merge"]
    options += ["auto" if merges else "off", "--config", *config, f"load_s={kind.load_s}"]
    runs = Runs("auto" if merges else "off")
    command = snakemake(SNAKEFILE, "gpupool", "--profile", str(PROFILE), *options)
    run_timed(runs, command, room / "run", {"GPUPOOL_SIMULATE": SIMULATED})
    return runs.walls_s[-1]


def new_room() -> Path:
    """Return a new directory. None is removed before the end: later files would take longer."""
    room = ROOM / str(next(NUMBERS))
    room.mkdir(parents=True)
    return room


def main() -> int:
    """Run all; return 0 if the target is reached everywhere."""
    options = parse_arguments()
    report.begin(ROOM, options.cores)
    os.environ["GPUPOOL_PROFILE"] = "off"
    try:
        return run(options)
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


def run(options: argparse.Namespace) -> int:
    """Do so."""
    print("\n| models | requests | | auto, s | off, s | auto / off |\n|---|---|---|---|---|---|")
    targets = []
    for (name, kind), requests in itertools.product(KINDS.items(), options.requests):
        if name not in options.kinds:
            continue
        times: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
        for number in range(options.repeats):
            order = (True, False) if number % 2 else (False, True)
            start_s, again_s = pools_s(kind, requests, order)
            for merges in order:
                times["pool, from the start"][merges].append(start_s[merges])
                times["pool, again"][merges] += again_s[merges]
                if not options.pool_only:
                    whole_s = snakemake_s(kind, requests, merges)
                    times["Snakemake"][merges].append(whole_s)
        for what, both in times.items():
            auto_s, off_s = statistics.median(both[True]), statistics.median(both[False])
            pairs = zip(both[True], both[False], strict=True)
            ratio = statistics.median(auto_s / off_s for auto_s, off_s in pairs)
            cells = f"{name} | {requests} | {what} | {auto_s:.3f} | {off_s:.3f}"
            print(f"| {cells} | {ratio:.2f} |", flush=True)
            targets.append(report.Target(f"{name}, {requests}, {what}", ratio, MAX_RATIO))
    print("\n".join(["", *map(str, targets)]))
    return 0 if all(target.reached for target in targets) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--repeats", type=int, default=1, help="(default: 1)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pool-only", action="store_true", help="no runs of Snakemake")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
