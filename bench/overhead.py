"""What a job costs: a tool that does nothing, against an executor that only touches outputs.

python bench/overhead.py                         1,000 and 5,000 jobs
python bench/overhead.py --jobs 1000 20000       how the cost of a job grows
python bench/overhead.py --jobs 200 --repeats 1       a quick look
python bench/overhead.py --usual      jobs with an input, params, a log and a benchmark (no target)

Beside them the same executor whose jobs end on another thread, as those of any executor do that
starts something and hears of its end later: what Snakemake does then is no executor's own. At the
end each runs once more at the largest size, looked at from inside: where its time goes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import report
import rivals
import sampled
import timeline
from measure import OUT, RivalFailed, Runs

ROOM = OUT / "overhead"
#: Bound of gpupool / floor at 5,000 jobs: with fewer, the start of both outweighs the jobs; with
#: many more, the floor spends most of its time on the inputs of ``rule all``.
AGAINST_FLOOR = 1.08
JUDGED_AT = 5_000
#: Bound of what a job's cost grows by, beyond what the floor's does, and up to how many jobs.
MAX_GROWTH = 1.3
GROWN_TO = 20_000


@dataclass
class Size:
    """Both rivals at one number of jobs."""

    jobs: int
    snakefile: Path
    floor: Runs = field(init=False)
    later: Runs = field(init=False)
    served: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.floor = Runs(f"(c) floor, {self.jobs:,} jobs")
        self.later = Runs(f"(c') floor on another thread, {self.jobs:,} jobs")
        self.served = Runs(f"(d) gpupool, {self.jobs:,} jobs")

    def round(self, number: int, settings: list[str]) -> None:
        """Run all once; ``settings`` are for gpupool, over those that it ships."""
        room = ROOM / f"jobs{self.jobs}-round{number}"
        for name, runs, run, options in self._rivals(settings):
            run(runs, room / name, *options, snakefile=self.snakefile)
            print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)

    def sample(self, settings: list[str]) -> list[sampled.Sampled]:
        """Run all once more, and look at them meanwhile."""
        room = ROOM / f"jobs{self.jobs}-sampled"
        return [
            sampled.sample(
                name, self.jobs, partial(run, snakefile=self.snakefile), room / name, *options
            )
            for name, _, run, options in self._rivals(settings)
        ]

    def _rivals(
        self, settings: list[str]
    ) -> list[tuple[str, Runs, Callable[..., None], list[str]]]:
        config = ["--config", f"jobs={self.jobs}"]
        return [
            ("floor", self.floor, rivals.touch_floor, config),
            ("later", self.later, partial(rivals.touch_floor, later=True), config),
            ("gpupool", self.served, rivals.gpupool, [*settings, *config]),
        ]

    @property
    def ratio(self) -> float:
        """Return gpupool's time over the floor's."""
        return self.served.median_s / self.floor.median_s

    def __str__(self) -> str:
        ms = [1e3 * runs.median_s / self.jobs for runs in (self.served, self.floor, self.later)]
        later = self.served.median_s / self.later.median_s
        return (
            f"- {self.jobs:,} jobs: {ms[0]:.2f} ms a job, floor {ms[1]:.2f} ms, ratio "
            f"{self.ratio:.3f}; floor on another thread {ms[2]:.2f} ms, ratio {later:.3f}"
        )


def main() -> int:
    """Run the bench; return 0 if every target is reached."""
    options = parse_arguments()
    facts = report.begin(ROOM, options.cores)
    snakefile = rivals.USUAL if options.usual else rivals.NOOP
    sizes = [Size(jobs, snakefile) for jobs in options.jobs]
    settings = ["--scheduler", options.scheduler] if options.scheduler else []
    try:
        for number in range(options.repeats):
            print(f"round {number + 1} of {options.repeats}", flush=True)
            for size in sizes:
                size.round(number, settings)
        seen = sizes[-1].sample(settings)
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    targets = judge(sizes)
    say_results(sizes, targets)
    print("\n".join(["", *sampled.lines(seen)]))
    if options.json:
        runs = [runs for size in sizes for runs in (size.floor, size.later, size.served)]
        report.write_json(options.json, facts, runs, targets)
    return 0 if all(target.reached for target in targets) else 1


def judge(sizes: list[Size]) -> list[report.Target]:
    """Return the targets that apply to the sizes that ran."""
    found = [
        report.Target(f"d / c at {size.jobs:,} jobs", size.ratio, AGAINST_FLOOR)
        for size in sizes
        if size.jobs == JUDGED_AT and size.snakefile == rivals.NOOP
    ]
    small, large = sizes[0], sizes[-1]
    if large.jobs >= GROWN_TO:
        served, floor = growths(small, large)
        text = f"growth from {small.jobs:,} to {large.jobs:,} jobs / the floor's"
        found.append(report.Target(text, served / floor, MAX_GROWTH))
    return found


def growths(small: Size, large: Size) -> tuple[float, float]:
    """Return how many times the cost of a job grows: gpupool's, the floor's."""
    served = (large.served.median_s / large.jobs) / (small.served.median_s / small.jobs)
    floor = (large.floor.median_s / large.jobs) / (small.floor.median_s / small.jobs)
    return served, floor


def growth_line(small: Size, large: Size) -> str:
    """Say how much the cost of a job grows with their number, beyond what the floor's does."""
    served, floor = growths(small, large)
    return (
        f"- from {small.jobs:,} to {large.jobs:,} jobs the cost of a job grows {served:.2f} x, "
        f"the floor's {floor:.2f} x"
    )


def say_results(sizes: list[Size], targets: list[report.Target]) -> None:
    """Print the table, the cost of a job, the verdicts, and where gpupool's time went."""
    rivals_run = (runs for size in sizes for runs in (size.floor, size.later, size.served))
    rows = report.table(rivals_run)
    text = ["", *rows, "", *map(str, sizes)]
    if len(sizes) > 1:
        text.append(growth_line(sizes[0], sizes[-1]))
    print("\n".join([*text, *map(str, targets), "", *timeline.lines(sizes[-1].served)]))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--jobs", type=int, nargs="+", default=[1_000, 5_000], help="sizes (default: 1000 5000)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores for both (default: 2)")
    parser.add_argument(
        "--scheduler", help="Snakemake's scheduler under gpupool (default: as its profile has it)"
    )
    parser.add_argument(
        "--usual", action="store_true", help="jobs with an input, params, a log and a benchmark"
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    if options.repeats < 1 or min(options.jobs) < 1 or options.cores < 1:
        parser.error("--jobs, --repeats and --cores must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
