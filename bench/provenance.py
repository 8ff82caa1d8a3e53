"""What it costs to record where outputs came from: jobs of a tool that does nothing.

Runs with and without take turns (with, without, without, with, ...), each in a fresh directory.
What counts is the median over pairs of neighbours; processor time, which a busy machine moves
less, is shown beside it::

    python bench/provenance.py                         5,000 jobs
    python bench/provenance.py --jobs 1000 --repeats 2       a quick look
"""

from __future__ import annotations

import argparse
import statistics
import sys

import report
import rivals
from measure import OUT, RivalFailed, Runs, run_timed

ROOM = OUT / "provenance"
#: Bound of what a run of 5,000 jobs takes longer.
AGAINST_OFF = 1.03
JUDGED_AT = 5_000


def main() -> int:
    """Run the bench; return 0 if the target is reached."""
    options = parse_arguments()
    facts = report.begin(ROOM, options.cores)
    ways = {"on": Runs("with provenance"), "off": Runs("without")}
    try:
        for number in range(options.repeats):
            for way in ("on", "off") if number % 2 == 0 else ("off", "on"):
                run(ways[way], way, number, options.jobs)
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    pairs = list(zip(ways["on"].walls_s, ways["off"].walls_s, strict=True))
    ratio = statistics.median(on / off for on, off in pairs)
    cpu = statistics.median(ways["on"].cpus_s) / statistics.median(ways["off"].cpus_s)
    targets = []
    if options.jobs >= JUDGED_AT:
        targets.append(report.Target("with / without provenance", ratio, AGAINST_OFF))
    lines = ["", *report.table(list(ways.values())), ""]
    lines.append(f"- {options.jobs:,} jobs: wall {ratio:.3f} x, processor time {cpu:.3f} x")
    print("\n".join([*lines, *map(str, targets)]))
    if options.json:
        report.write_json(options.json, facts, list(ways.values()), targets)
    return 0 if all(target.reached for target in targets) else 1


def run(runs: Runs, way: str, number: int, jobs: int) -> None:
    """Run the workflow once."""
    arguments = "--profile", str(rivals.PROFILE), "--config", f"jobs={jobs}"
    command = rivals.snakemake(rivals.NOOP, "gpupool", *arguments)
    run_timed(runs, command, ROOM / f"{way}-{number}", {"GPUPOOL_PROVENANCE": way})
    print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=5_000, help="default: 5000")
    parser.add_argument("--repeats", type=int, default=4, help="pairs (default: 4)")
    parser.add_argument("--cores", type=int, default=2, help="cores for both (default: 2)")
    parser.add_argument("--json", metavar="PATH", help="write all numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
