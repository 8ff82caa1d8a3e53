"""Balance over real worker processes, and what a second run gains by the first one's figures.

Work is sleep, so that four workers need no four cores; all else is the product::

    python bench/balance.py
    python bench/balance.py --repeats 1       a quick look

``bench/planning.py`` has the same questions for many seeds in simulated time.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import report
from measure import end_on_sigterm, machine

from snakemake_executor_gpupool import ToolPool, tool_function

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

from sleeper import Nap

from snakemake_executor_gpupool.testing import promises

WORKERS = 4
SLEEPER = f"{Path(__file__).resolve().parent / 'tools' / 'sleeper.py'}:Sleeper"
MEDIAN_S, ITEMS = 0.04, 250
MAX_OVER_IDEAL = 1.05
SECOND_RUN = 0.85
#: So many items make a pool that knows nothing start all of its workers.
WARM_UP = 8 * WORKERS


def over_ideal(seed: int) -> float:
    """Return the time of one call on warm workers over the least possible one."""
    rng = random.Random(seed)
    costs = [MEDIAN_S * cost for cost in promises.heavy_tail(rng, ITEMS)]
    told = promises.mistaken(rng, costs)
    naps = [Nap(n, *times) for n, times in enumerate(zip(costs, told, strict=True))]
    sleep = tool_function(SLEEPER)
    with ToolPool(devices=f"cpu:{WORKERS}") as pool:
        sleep([Nap(-n, 0.05, 0.05) for n in range(1, WARM_UP + 1)])
        assert pool.summary["model_loads"] == WORKERS
        start_s = time.perf_counter()
        assert sleep(naps) == list(range(ITEMS))
        wall_s = time.perf_counter() - start_s
    return wall_s / promises.least_makespan(costs, WORKERS)


def two_runs() -> tuple[float, float]:
    """Return the seconds of a call in a pool that knows nothing, and in one that does."""
    sleep = tool_function(SLEEPER, load_s=0.3)
    walls_s = []
    for _ in range(2):
        with ToolPool(devices=f"cpu:{WORKERS}"):
            start_s = time.perf_counter()
            sleep([Nap(number, 1.0, 1.0) for number in range(7)])
            walls_s.append(time.perf_counter() - start_s)
    return walls_s[0], walls_s[1]


def main() -> int:
    """Run both; return 0 if the targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error("--repeats must be at least 1")
    end_on_sigterm()
    print("\n".join(report.facts_lines(machine())), flush=True)
    ratios, gains = [], []
    print(f"\n| round | over the ideal, {WORKERS} workers | first run, s | second run, s |")
    print("|---|---|---|---|")
    for number in range(repeats):
        os.environ["GPUPOOL_PROFILE"] = "off"
        ratios.append(over_ideal(number))
        with tempfile.TemporaryDirectory() as directory:
            os.environ["GPUPOOL_PROFILE"] = str(Path(directory, "profile.json"))
            first_s, second_s = two_runs()
        gains.append(second_s / first_s)
        row = f"| {number + 1} | {ratios[-1]:.3f} | {first_s:.2f} | {second_s:.2f} |"
        print(row, flush=True)
    targets = [
        report.Target(
            "balance on real workers, costs wrong by 0.5 to 2",
            statistics.median(ratios),
            MAX_OVER_IDEAL,
        ),
        report.Target("second run / first", statistics.median(gains), SECOND_RUN),
    ]
    print("\n" + "\n".join(map(str, targets)))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
