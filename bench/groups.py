"""Rows of short jobs in a real run: found by looking ahead, or declared with ``group:``.

The same rules and files, under Snakemake: merged by looking ahead; as groups, each row one; as
groups of many rows; and neither::

    python bench/groups.py
    python bench/groups.py --rows 20 --repeats 1       a quick look
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import report
import rivals
from measure import OUT, RivalFailed, Runs
from timeline import summary
from tools.layer import WIDTH

ROOM = OUT / "groups"
SNAKEFILE = rivals.HERE / "rows.smk"
TOKENS = 8
PER_GROUP = 25
#: Looking ahead must not be slower than the quicker of the two ways to declare groups.
MAX_RATIO = 1.0


def rivals_of() -> list[tuple[Runs, list[str]]]:
    """Return each way's runs and options."""
    grouped = ["grouped=1"]
    components = ["--group-components", f"row={PER_GROUP}"]
    return [
        (Runs("looking ahead"), ["--config", "grouped="]),
        (Runs("a group for each row"), ["--config", *grouped]),
        (Runs(f"groups of {PER_GROUP} rows"), [*components, "--config", *grouped]),
        (Runs("stage by stage"), ["--gpupool-merge", "off", "--config", "grouped="]),
    ]


def write_inputs(directory: Path, rows: int) -> None:
    """Write what the first stage reads."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    for row in range(rows):
        rng.standard_normal((TOKENS, WIDTH)).astype(np.float32).tofile(directory / f"{row}.f32")


def run(runs: Runs, options: list[str], room: Path, rows: int) -> None:
    """Run one way once.

    Raises
    ------
    RivalFailed
        It ended with an error.
    """
    inputs = room / "inputs"
    write_inputs(inputs, rows)
    directory = room / "run"
    options = [*options, f"rows={rows}", f"inputs={inputs}"]
    rivals.gpupool(runs, directory, *options, snakefile=SNAKEFILE)
    print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)


def largest_difference(all_runs: list[Runs], rows: int) -> float:
    """Return how far the results of the ways are apart."""
    results = [
        np.stack([np.fromfile(_last(runs) / f"{row}.f32", np.float32) for row in range(rows)])
        for runs in all_runs
    ]
    return float(max(np.abs(result - results[0]).max() for result in results))


def _last(runs: Runs) -> Path:
    assert runs.directory is not None
    return runs.directory / "stage3"


def main() -> int:
    """Run the bench; return 0 if the ways agree and the target is reached."""
    options = parse_arguments()
    report.begin(ROOM, options.cores)
    ways = rivals_of()
    try:
        for number in range(options.repeats):
            print(f"round {number + 1} of {options.repeats}", flush=True)
            for place, (runs, extra) in enumerate(ways):
                run(runs, extra, ROOM / f"round{number}-{place}", options.rows)
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    all_runs = [runs for runs, _ in ways]
    difference = largest_difference(all_runs, options.rows)
    agreed = difference <= 1e-4
    print("\n".join(["", *report.table(all_runs), ""]))
    for runs in all_runs:
        print(f"- {runs.label}: {summary(runs)['dispatches_saved']} dispatches saved")
    print(f"- {'PASS' if agreed else 'FAIL'}: outputs agree; largest difference {difference:.1e}")
    best_s = min(runs.median_s for runs in all_runs[1:3])
    target = report.Target("looking ahead / groups", all_runs[0].median_s / best_s, MAX_RATIO)
    print(target)
    return 0 if agreed and target.reached else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="rows of three jobs (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if min(options.repeats, options.rows, options.cores) < 1:
        parser.error("--repeats, --rows and --cores must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
