"""Python calls of one model: within one pool, and each by itself.

All sequences of the pipeline bench, dealt out over four calls of ``esm2_embed``: in one program
within a ``ToolPool``, in one program without, and in one program per call::

    python bench/api.py
    python bench/api.py --files 12 --repeats 1       a quick look
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import agreement
import report
import workload
from measure import OUT, RivalFailed, Runs, end_on_sigterm, limit_cores, machine, run_timed
from rivals import MALLOC

ROOM = OUT / "api"
CALLS = 4
SHAPE_8M = (6, 320, 20)
AGAINST_ONE_SHOT = 0.5
SCRIPT = Path(__file__).resolve().parent / "rivals" / "api_calls.py"


class Contest:
    """The three ways and their runs."""

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self.block = Runs(f"{CALLS} calls within one pool")
        self.cold = Runs(f"{CALLS} cold calls in one process")
        self.one_shot = Runs(f"{CALLS} programs of one cold call")

    def round(self, number: int) -> None:
        """Let everyone run once."""
        room = ROOM / f"round{number}"
        run_timed(self.block, self._command("block"), room / "block")
        run_timed(self.cold, self._command("cold"), room / "cold", MALLOC)
        single = [Runs(f"call {call}") for call in range(CALLS)]
        for call, runs in enumerate(single):
            run_timed(runs, self._command("cold", str(call)), room / f"call{call}", MALLOC)
            for path in (room / f"call{call}" / "out").iterdir():
                (room / "one-shot" / "out").mkdir(parents=True, exist_ok=True)
                path.rename(room / "one-shot" / "out" / path.name)
        self.one_shot.walls_s.append(sum(runs.walls_s[0] for runs in single))
        self.one_shot.cpus_s.append(sum(runs.cpus_s[0] for runs in single))
        self.one_shot.directory = room / "one-shot"
        for runs in self.all_runs:
            print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)

    def _command(self, how: str, *calls: str) -> list[str]:
        where = [str(ROOM / "fasta"), "out", self._checkpoint]
        return [sys.executable, str(SCRIPT), how, *where, str(CALLS), *calls]

    @property
    def all_runs(self) -> list[Runs]:
        """Return everyone's runs, in the order of the table."""
        return [self.one_shot, self.cold, self.block]

    def difference(self) -> float:
        """Return how far any two numbers of the three ways are apart."""
        first, *others = [(runs.directory or Path()) / "out" for runs in self.all_runs]
        return max(agreement.largest_difference(first, other) for other in others)


def main() -> int:
    """Run the bench; return 0 if the numbers agree and the target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    counted = workload.write(ROOM / "fasta", options.files)
    print("\n".join(report.facts_lines(machine() | {"workload": str(counted)})), flush=True)
    from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint

    contest = Contest(write_seeded_checkpoint(str(OUT), *SHAPE_8M))
    try:
        for number in range(options.repeats):
            print(f"round {number + 1} of {options.repeats}", flush=True)
            contest.round(number)
        difference = contest.difference()
    except (RivalFailed, agreement.Disagreement) as error:
        print(f"\nFAIL: {error}")
        return 1
    agreed = difference <= agreement.TOLERANCE
    ratio = contest.block.median_s / contest.one_shot.median_s
    target = report.Target("within a pool / programs of one call", ratio, AGAINST_ONE_SHOT)
    print("\n".join(["", *report.table(contest.all_runs), ""]))
    print(f"- {'PASS' if agreed else 'FAIL'}: outputs agree; largest difference {difference:.1e}")
    print(target)
    return 0 if agreed and target.reached else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores for everyone (default: 2)")
    options = parser.parse_args()
    if options.repeats < 1 or options.files < CALLS or options.cores < 1:
        parser.error(f"--repeats and --cores must be at least 1, --files at least {CALLS}")
    return options


if __name__ == "__main__":
    sys.exit(main())
