"""What the planner promises, in simulated time: its decisions are real, devices and work are not.

The figures do not depend on the machine. Each is a row of a table and a verdict::

    python bench/planning.py                  200 seeds each, some minutes
    python bench/planning.py --seeds 10       a quick look
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

import report
import workload

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing import promises
from snakemake_executor_gpupool.testing.world_options import FakeItem
from snakemake_executor_gpupool.tools.esm2 import CPU_TOKENS, Esm2Embed
from snakemake_executor_gpupool.tools.fasta import Record

DEVICES = 8
ITEMS = (100, 200, 400)
TRUE_COSTS, WRONG_COSTS = 1.02, 1.06
NEVER_WORSE = 1.05
MAX_PADDING = 0.03
SECOND_RUN = 0.75
#: Load times, in times of a median item.
LOADS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def balance(seeds: int) -> list[report.Target]:
    """Compare makespans with the least possible one, under a heavy tail."""
    columns: dict[str, list[float]] = {}
    for seed in range(seeds):
        rng = random.Random(seed)
        costs = promises.heavy_tail(rng, ITEMS[seed % len(ITEMS)])
        told = promises.mistaken(rng, costs)
        least_s = promises.least_makespan(costs, DEVICES)
        for label, makespan_s in (
            ("round-robin", promises.round_robin(costs, DEVICES)),
            ("static LPT, true costs", promises.static_lpt(costs, costs, DEVICES)),
            ("static LPT, wrong costs", promises.static_lpt(costs, told, DEVICES)),
            ("gpupool, true costs", promises.served(costs, costs, DEVICES)),
            ("gpupool, wrong costs", promises.served(costs, told, DEVICES)),
        ):
            columns.setdefault(label, []).append(makespan_s / least_s)
    say(f"\n## Balance: {DEVICES} devices, log-normal costs, one item of 50 medians\n")
    say(f"Makespan over the least possible one, {seeds} seeds, {ITEMS} items.\n")
    print_table(columns)
    return [
        report.Target(
            "balance, true costs, worst", max(columns["gpupool, true costs"]), TRUE_COSTS
        ),
        report.Target(
            "balance, costs wrong by 0.5 to 2, worst",
            max(columns["gpupool, wrong costs"]),
            WRONG_COSTS,
        ),
    ]


def never_worse(seeds: int) -> list[report.Target]:
    """Compare with the best number of workers, found by trying all of them."""
    ratios: list[float] = []
    for seed in range(seeds):
        rng = random.Random(seed)
        costs = [rng.lognormvariate(0.0, rng.choice((0.0, 1.0))) for _ in range(1 + seed % 16)]
        devices = rng.randint(1, DEVICES)
        for load_s in LOADS:
            known = Figures(load_s=load_s, s_per_cost=1.0)
            reached_s, _ = promises.with_loads(costs, load_s, devices, known)
            ratios.append(reached_s / promises.best_fixed_number(costs, load_s, devices))
    say("\n## Number of workers: 1 to 16 items, 1 to 8 devices, loads of 0 to 100 items' time\n")
    say("Makespan over that of the best fixed number of workers.\n")
    print_table({"gpupool": ratios})
    return [report.Target("number of workers, worst", max(ratios), NEVER_WORSE)]


def padding() -> list[report.Target]:
    """Count padding in the micro-batches of the pipeline bench's workload."""
    tool = Esm2Embed({"model": "esm2_t6_8M_UR50D"})
    ours, arrival = [], []
    for seed in range(5):
        jobs = workload.generate(seed=seed)
        items = [
            [
                FakeItem(text, tool.cost(Record(name, text)), tool.tokens(Record(name, text)))
                for name, text in records
            ]
            for records in jobs
        ]
        unique = {item.key: item.tokens for job in items for item in job}
        ours.append(promises.padding_of(promises.served_batches(items, 2, CPU_TOKENS)))
        in_order = promises.in_arrival_order(unique.values(), CPU_TOKENS)
        arrival.append(promises.padding_of(in_order))
    say(f"\n## Padding: 120 FASTA files, {CPU_TOKENS} tokens a micro-batch, two workers\n")
    say("Share of computed tokens that are padding, 5 seeds.\n")
    print_table({"in order of arrival": arrival, "gpupool": ours})
    return [report.Target("padding, worst", max(ours), MAX_PADDING)]


def second_run() -> list[report.Target]:
    """Compare a first run with one that knows what the first measured."""
    ratios = []
    say("\n## The measured profile: 20 items of 4 s, 8 devices\n")
    say("| load, s | first run, s | second run, s | ratio |\n|---|---|---|---|")
    for load_s in (1.0, 5.0, 20.0):
        first_s, second_s = promises.two_runs(items=20, load_s=load_s, devices=DEVICES)
        ratios.append(second_s / first_s)
        say(f"| {load_s:g} | {first_s:.1f} | {second_s:.1f} | {ratios[-1]:.2f} |")
    return [report.Target("second run / first, median", statistics.median(ratios), SECOND_RUN)]


def print_table(columns: dict[str, list[float]]) -> None:
    """Print median and worst of each column."""
    say("| | median | worst |\n|---|---|---|")
    for label, values in columns.items():
        say(f"| {label} | {statistics.median(values):.4f} | {max(values):.4f} |")


def say(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


def main() -> int:
    """Run all; return 0 if every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="(default: 200)")
    seeds = parser.parse_args().seeds
    if seeds < 1:
        parser.error("--seeds must be at least 1")
    targets = [*balance(seeds), *never_worse(seeds), *padding(), *second_run()]
    say("\n" + "\n".join(map(str, targets)))
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
