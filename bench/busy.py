"""Whether devices stay busy: a tool that sleeps plays the device, and notes when it did.

A device is busy from its first batch to its last for such a share of the time. With large results,
each batch is a job whose file is written meanwhile, beside a plain loop of ``numpy.savez``::

    python bench/busy.py
    python bench/busy.py --seconds 0.5       a quick look
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report
from measure import OUT, end_on_sigterm, limit_cores, machine

ROOM = OUT / "busy"
TOOL = f"{Path(__file__).resolve().parent / 'tools' / 'naps.py'}:Naps"
ITEMS_PER_BATCH = 16
#: To reach: with batches of 5 ms, with four devices and batches of 20 ms, with 80 MB a batch.
ONE, FOUR, LARGE = 0.97, 0.90, 0.95
LARGE_BYTES, LARGE_BATCH_S, LARGE_BATCHES = 80_000_000, 0.25, 12


@dataclass(frozen=True)
class Busy:
    """How busy one device was."""

    batches: int
    share: float
    gap_s: float

    @classmethod
    def of(cls, log: Path) -> Busy:
        """Read it from what the tool has noted."""
        spans = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
        gaps = sorted(later[0] - earlier[1] for earlier, later in itertools.pairwise(spans))
        share = sum(end - start for start, end in spans) / (spans[-1][1] - spans[0][0])
        return cls(len(spans), share, gaps[len(gaps) // 2] if gaps else 0.0)


def small(devices: int, batch_s: float, seconds: float) -> list[Busy]:
    """Keep so many devices at batches of so long, for about so many seconds."""
    from snakemake_executor_gpupool import ToolPool

    params = {"batch_s": batch_s, "log": str(new_log())}
    count = round(devices * seconds / batch_s)
    with ToolPool(devices=f"cpu:{devices}") as pool:
        # All devices have the model before anything counts.
        pool.run(TOOL, list(range(-4 * devices * ITEMS_PER_BATCH, 0)), params)
        for log in logs():
            os.truncate(log, 0)
        pool.run(TOOL, list(range(count * ITEMS_PER_BATCH)), params)
    return [Busy.of(log) for log in logs() if log.read_text().count("\n") > 1]


def large() -> list[Busy]:
    """Have jobs of one batch each, whose results are large, done and written at once."""
    from snakemake_executor_gpupool import ToolPool

    params = {"batch_s": LARGE_BATCH_S, "log": str(new_log()), "result_bytes": LARGE_BYTES}
    first = 0
    inputs = []
    for number in range(LARGE_BATCHES):
        inputs.append(ROOM / f"{number}.txt")
        inputs[-1].write_text(f"{first} {ITEMS_PER_BATCH}")
        first += ITEMS_PER_BATCH
    with (
        ToolPool(devices="cpu:1") as pool,
        concurrent.futures.ThreadPoolExecutor(LARGE_BATCHES) as threads,
    ):

        def do(source: Path) -> None:
            target = str(source.with_suffix(".npz"))
            pool.run_job(TOOL, input=[str(source)], output=[target], params=params)

        list(threads.map(do, inputs))
    return [Busy.of(log) for log in logs()]


def savez_s() -> float:
    """Return what a plain loop takes to write as much, per batch."""
    size = LARGE_BYTES // (4 * ITEMS_PER_BATCH)
    arrays = [np.zeros(size, np.float32) for _ in range(ITEMS_PER_BATCH)]
    started_s = time.perf_counter()
    for number in range(LARGE_BATCHES):
        np.savez(ROOM / f"plain{number}.npz", *arrays)
    return (time.perf_counter() - started_s) / LARGE_BATCHES


def new_log() -> Path:
    """Return where the tool notes when it computed; nothing is there yet."""
    shutil.rmtree(ROOM, ignore_errors=True)
    ROOM.mkdir(parents=True)
    return ROOM / "log"


def logs() -> list[Path]:
    """Return what the processes of the tool have noted."""
    return sorted(ROOM.glob("log.*"))


def main() -> int:
    """Run the bench; return 0 if every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each part (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    end_on_sigterm()
    limit_cores(options.cores)
    print("\n".join(report.facts_lines(machine())), flush=True)
    parts = [
        ("one device, batches of 5 ms", ONE, lambda: small(1, 0.005, options.seconds)),
        ("four devices, batches of 20 ms", FOUR, lambda: small(4, 0.02, options.seconds)),
        ("one device, results of 80 MB every 0.25 s", LARGE, large),
    ]
    targets = []
    for label, to_reach, measure in parts:
        load = os.getloadavg()[0]
        found = measure()
        for busy in found:
            print(
                f"- {label}: {busy.batches} batches, busy {busy.share:.1%}, "
                f"{1e3 * busy.gap_s:.2f} ms between two in the median; load {load:.1f}",
                flush=True,
            )
        idle = 1.0 - min(busy.share for busy in found)
        targets.append(report.Target(f"{label}: idle share", idle, 1.0 - to_reach))
    print(f"- a loop of numpy.savez takes {savez_s():.2f} s for 80 MB")
    print("\n".join(["", *map(str, targets)]))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
