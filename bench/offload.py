"""What it costs to come back to a device: a copy of the weights, or a cold reload.

Two instances of one model take turns on one device. A turn that finds its model away,
less a turn that finds it there, is the cost of coming back, making room included::

    python bench/offload.py                          ESM-2 at the shape of 650M, seeded
    python bench/offload.py --shape 8M --turns 3     a quick look

Without a GPU the device is simulated: weights are in host memory all the time, so that
what is left of a return is the pool's own part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field

import report
from measure import OUT, end_on_sigterm, machine

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from snakemake_executor_gpupool.tools.fasta import Record

#: Layers, width and heads of published models.
SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20), "650M": (33, 1280, 20)}
AGAINST_RELOAD = 0.2
RESIDUES = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"


@dataclass
class Turns:
    """The turns under one strategy."""

    strategy: str
    away_s: list[float] = field(default_factory=list)
    there_s: list[float] = field(default_factory=list)
    loads: int = 0

    @property
    def return_s(self) -> float:
        """Return the median cost of coming back."""
        return statistics.median(self.away_s) - statistics.median(self.there_s)

    def __str__(self) -> str:
        away_s, there_s = statistics.median(self.away_s), statistics.median(self.there_s)
        return (
            f"| {self.strategy} | {away_s:.3f} | {there_s:.3f} | {self.return_s:.3f} "
            f"| {self.loads} |"
        )


def take_turns(strategy: str, checkpoint: str, turns: int) -> Turns:
    """Let two instances take turns on the first GPU."""
    taken = Turns(strategy)
    numbers = iter(range(10_000))

    def call(instance: str) -> float:
        # Another residue each time, or the pool would answer from what it has.
        item = Record("p", RESIDUES + "A" * (1 + next(numbers)))
        start_s = time.perf_counter()
        pool.run("esm2-embed", [item], {"model": checkpoint}, instance=instance)
        return time.perf_counter() - start_s

    with ToolPool(devices=[0], offload_strategy=strategy) as pool:
        call("A")
        call("B")
        for turn in range(turns):
            instance = "AB"[turn % 2]
            taken.away_s.append(call(instance))
            taken.there_s.append(call(instance))
        taken.loads = pool.summary["model_loads"]
    return taken


def main() -> int:
    """Run the bench; return 0 if the target is reached or cannot be judged here."""
    options = parse_arguments()
    end_on_sigterm()
    gpu = next(iter(probe(dict(os.environ)).devices), None)
    if gpu is None:
        os.environ["GPUPOOL_SIMULATE"] = "1"
    device = gpu.model_name if gpu else "none: one GPU is simulated, all work runs on the CPU"
    print("\n".join(report.facts_lines(machine() | {"GPU": device, "model": options.shape})))
    os.environ["GPUPOOL_PROFILE"] = "off"
    OUT.mkdir(exist_ok=True)
    checkpoint = write_seeded_checkpoint(str(OUT), *SHAPES[options.shape])
    print("\n| strategy | model away, s | model there, s | coming back, s | loads |")
    print("|---|---|---|---|---|")
    restart, offload = (take_turns(name, checkpoint, options.turns) for name in ("restart", "cpu"))
    print(restart, offload, sep="\n")
    returns_s = {taken.strategy: taken.return_s for taken in (restart, offload)}
    print(json.dumps({"return_s": returns_s}))
    target = report.Target("return / reload", offload.return_s / restart.return_s, AGAINST_RELOAD)
    if gpu is None:
        print(f"\n- not judged without a GPU: return / reload = {target.ratio:.3f}")
        return 0
    print(f"\n{target}")
    return 0 if target.reached else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="650M", help="(default: 650M)")
    parser.add_argument("--turns", type=int, default=6, help="of each strategy (default: 6)")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error("--turns must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
