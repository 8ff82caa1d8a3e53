"""What knowing the graph of jobs is worth, in simulated time: the same rules with and without.

Random graphs (layers, diamonds, chains, waves) of 2 to 8 models on 1 to 8 devices, with loads of 0
to 100 times an item and costs that are wrong by 0.5 to 2. Loads are drawn in two ways: in steps of
0, 0.3, 1, 3, 10, 30 and 100 items, so that half are short, and evenly from 0 to 100 items. Jobs are
run by the real scheduler twice: with ready jobs alone (the least recently used model is evicted),
and with a forecast. Loads stand beside the fewest that anybody who knows all could do with. What
chance alone does stands beside it, too: the same rules without a forecast, with the jobs that are
ready at the same moment in one order and in another. The figures do not depend on the machine::

    python bench/lookahead.py                 200 graphs of each draw, some minutes
    python bench/lookahead.py --draw even     one draw alone
    python bench/lookahead.py --seeds 20      a quick look
    python bench/lookahead.py --best 300      beside the best of 300 schedules that know all, too
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from snakemake_executor_gpupool.testing.clairvoyant import best_makespan, least_makespan
from snakemake_executor_gpupool.testing.fewest_loads import fewest_loads
from snakemake_executor_gpupool.testing.graph_runs import GraphRun, Outcome
from snakemake_executor_gpupool.testing.graphs import DRAWS, SHAPES, Graph, random_graph

LOADS_OF_OPTIMUM = 1.1
NEVER_LATER = 1.03
SOONER_WHERE_SCARCE = 0.9
#: How loads are drawn.
NAMES = {"steps": "in steps, half of them three items or less", "even": "evenly, 0 to 100 items"}


@dataclass(frozen=True)
class Compared:
    """One graph: what it took without and with a forecast, and what would have done."""

    graph: Graph
    today: Outcome
    ahead: Outcome
    fewest: int
    is_exact: bool
    shuffled: tuple[tuple[Outcome, Outcome], ...]
    """Without and with a forecast, with jobs that are ready at the same moment in other orders."""
    best_s: float = math.nan

    @property
    def is_scarce(self) -> bool:
        """Whether there are more models than devices."""
        return len(self.graph.models) > self.graph.devices

    @property
    def is_heavy(self) -> bool:
        """Whether a load takes as long as ten items."""
        return self.graph.load_s >= 10.0

    @property
    def time_ratio(self) -> float:
        """The makespan with a forecast over that without."""
        return self.ahead.makespan_s / self.today.makespan_s

    @property
    def bound(self) -> float:
        """What no scheduler can beat over the makespan without a forecast."""
        return least_makespan(self.graph, self.fewest) / self.today.makespan_s

    @property
    def best(self) -> float:
        """The best known makespan over that without a forecast: one that nobody can foresee."""
        return min(self.best_s, self.ahead.makespan_s, self.today.makespan_s) / (
            self.today.makespan_s
        )


def compare(seed: int, draw: str, tries: int = 0) -> Compared:
    """Run one graph; ``tries``: how many schedules are made that know all."""
    graph = random_graph(seed, draw)
    today = GraphRun(graph, looks_ahead=False).run()
    ahead = GraphRun(graph, looks_ahead=True).run()
    shuffled = tuple(
        (in_order(graph, order, looks_ahead=False), in_order(graph, order, looks_ahead=True))
        for order in (f"{seed} one", f"{seed} other")
    )
    best_s = best_makespan(graph, tries, seed) if tries else math.nan
    return Compared(graph, today, ahead, *fewest_loads(graph), shuffled, best_s)


def in_order(graph: Graph, order: str, *, looks_ahead: bool) -> Outcome:
    """Run a graph with jobs that are ready at the same moment in an order that is drawn."""
    return GraphRun(graph, looks_ahead=looks_ahead, shuffles=random.Random(order)).run()


def table(rows: Sequence[tuple[str, Sequence[Compared]]]) -> list[str]:
    """Return a line for each group of graphs."""
    lines = [
        "| graphs | number | loads, LRU | forecast | of models without a worker, LRU | forecast | "
        "makespan: median | mean | worst | best known | bound |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, group in rows:
        if group:
            times = [each.time_ratio for each in group]
            loads = " | ".join(
                f"{statistics.median(map(count, group)):.2f}"
                for count in (
                    lambda each: each.today.loads / each.fewest,
                    lambda each: each.ahead.loads / each.fewest,
                    lambda each: each.today.cold_loads / each.fewest,
                    lambda each: each.ahead.cold_loads / each.fewest,
                )
            )
            best, bound = (
                statistics.median(getattr(each, which) for each in group)
                for which in ("best", "bound")
            )
            lines.append(
                f"| {label} | {len(group)} | {loads} | {statistics.median(times):.3f} | "
                f"{statistics.fmean(times):.3f} | {max(times):.3f} | {best:.3f} | {bound:.3f} |"
            )
    return lines


def groups(compared: Sequence[Compared]) -> list[tuple[str, list[Compared]]]:
    """Return the graphs by what makes them alike."""

    def those(keeps: Callable[[Compared], bool]) -> list[Compared]:
        return [each for each in compared if keeps(each)]

    rows = [("all", list(compared))]
    for shape in SHAPES:
        rows.append((shape, those(lambda each, shape=shape: each.graph.shape == shape)))  # type: ignore[misc]
    rows.append(("loads of 10 items and more", those(lambda each: each.is_heavy)))
    rows.append(("more models than devices", those(lambda each: each.is_scarce)))
    rows.append(
        ("both of these", those(lambda each: each.is_scarce and each.is_heavy)),
    )
    return rows


def of_chance(compared: Sequence[Compared]) -> dict[str, list[float]]:
    """Return ratios of makespans beside those that chance alone makes."""
    return {
        "forecast over LRU, in the graph's order": [each.time_ratio for each in compared],
        "forecast over LRU, both in another order": [
            ahead.makespan_s / today.makespan_s
            for each in compared
            for today, ahead in each.shuffled
        ],
        "LRU over LRU, in one order over another": [
            each.shuffled[0][0].makespan_s / each.shuffled[1][0].makespan_s for each in compared
        ],
        "forecast over forecast, in one order over another": [
            each.shuffled[0][1].makespan_s / each.shuffled[1][1].makespan_s for each in compared
        ],
    }


def late(ratios: Sequence[float]) -> float:
    """Return the share of ratios that are above what is to be reached."""
    return statistics.fmean(ratio > NEVER_LATER for ratio in ratios)


def chance_table(ratios: dict[str, list[float]]) -> list[str]:
    """Return a line for each of them."""
    lines = [f"| makespan | mean | worst | above {NEVER_LATER} |", "|---|---|---|---|"]
    for label, those in ratios.items():
        mean, worst = statistics.fmean(those), max(those)
        lines.append(f"| {label} | {mean:.3f} | {worst:.3f} | {100 * late(those):.1f}% |")
    return lines


def targets(compared: Sequence[Compared]) -> list[report.Target]:
    """Return what is to be reached."""
    scarce = [each.time_ratio for each in compared if each.is_scarce]
    loads = statistics.median(each.ahead.cold_loads / each.fewest for each in compared)
    ahead, _, chance, _ = of_chance(compared).values()
    return [
        report.Target(
            "loads of models without a worker, over the fewest, median", loads, LOADS_OF_OPTIMUM
        ),
        report.Target("makespan, worst", max(ahead), NEVER_LATER),
        report.Target(f"graphs that take longer than {NEVER_LATER} x, share", late(ahead), 0.0),
        report.Target(
            "the same, in place of 0: LRU with jobs in another order", late(ahead), late(chance)
        ),
        report.Target(
            "makespan, more models than devices, median",
            statistics.median(scarce),
            SOONER_WHERE_SCARCE,
        ),
    ]


def run_all(seeds: Sequence[int], draw: str, tries: int, *, prints_each: bool) -> bool:
    """Run the graphs of some seeds, and print what came of it; return whether it is enough."""
    compared = []
    for seed in seeds:
        each = compare(seed, draw, tries)
        compared.append(each)
        if prints_each:
            graph = each.graph
            print(
                f"{seed} {graph.shape} jobs={len(graph.jobs)} models={len(graph.models)} "
                f"devices={graph.devices} load={graph.load_s:.3g} known={graph.knows_figures} "
                f"loads {each.today.loads} -> {each.ahead.loads} (fewest {each.fewest}"
                f"{'' if each.is_exact else ' or more'}) time {each.time_ratio:.3f} "
                f"best {each.best:.3f} bound {each.bound:.3f}",
                flush=True,
            )
    print(f"\nSeeds {seeds[0]} to {seeds[-1]}, loads drawn {NAMES[draw]}:\n")
    print("\n".join(table(groups(compared))))
    print("\n" + "\n".join(chance_table(of_chance(compared))))
    unproven = sum(not each.is_exact for each in compared)
    print(
        f"\nThe fewest loads are exact but for {unproven} graphs, where they are a lower bound.\n"
    )
    reached = targets(compared)
    print("\n".join(map(str, reached)), flush=True)
    return all(target.reached for target in reached)


def main() -> int:
    """Run all; return 0 if every target is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="(default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--draw", choices=DRAWS, help="of loads (default: both)")
    parser.add_argument("--best", type=int, default=0, help="so many schedules that know all")
    parser.add_argument("--each", action="store_true", help="print a line for each graph")
    options = parser.parse_args()
    if options.seeds < len(SHAPES):
        parser.error(f"--seeds must be at least {len(SHAPES)}")
    seeds = range(options.first, options.first + options.seeds)
    reached = [
        run_all(seeds, draw, options.best, prints_each=options.each)
        for draw in ([options.draw] if options.draw else DRAWS)
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
