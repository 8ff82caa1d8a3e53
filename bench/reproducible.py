"""What a reproducible run costs, and what it keeps: the sequences of the pipeline bench, embedded.

Both modes take turns, each time in a new pool whose workers have loaded, and tested, their models
when the clock starts; in each mode pools of other sizes and orders are compared, bit by bit::

    python bench/reproducible.py
    python bench/reproducible.py --files 24 --repeats 1       a quick look
    python bench/reproducible.py --device cuda --shape 650M --precision bf16
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from typing import Any

import report
import workload
from measure import OUT, Runs, end_on_sigterm, limit_cores, machine
from offload import SHAPES

from snakemake_executor_gpupool import ToolPool

TOOL = "esm2-embed"
AGAINST_DEFAULT = 1.5
#: With fewer files most rows of a batch are filled up: the ratio says nothing.
JUDGED_AT = 120

Bits = dict[str, bytes]


class Contest:
    """Both modes, and what they computed."""

    def __init__(self, sequences: list[str], params: dict[str, Any], devices: list[str]) -> None:
        self._sequences, self._params, self._devices = sequences, params, devices
        self._rng = random.Random(0)
        self.runs = {False: Runs("default"), True: Runs("reproducible")}
        self.differing = {False: 0, True: 0}
        self._first: dict[bool, Bits] = {}

    def round(self, number: int) -> None:
        """Let both compute all sequences, on more workers each time, in another order."""
        devices = self._devices[number % len(self._devices)]
        for mode, runs in self.runs.items():
            self._rng.shuffle(self._sequences)
            with ToolPool(devices=devices, reproducible=mode) as pool:
                # All workers load, and test their models.
                self._bits(pool, [sequence[::-1] for sequence in self._sequences[:40]])
                started_s = time.perf_counter()
                bits = self._bits(pool, self._sequences)
                runs.walls_s.append(time.perf_counter() - started_s)
            first = self._first.setdefault(mode, bits)
            self.differing[mode] += sum(bits[each] != first[each] for each in bits)
            print(f"  {runs.label} on {devices}: {runs.walls_s[-1]:.2f} s", flush=True)

    def _bits(self, pool: ToolPool, sequences: list[str]) -> Bits:
        results = pool.run(TOOL, sequences, self._params)
        return {
            sequence: b"".join(array.tobytes() for array in result.values())
            for sequence, result in zip(sequences, results, strict=True)
        }

    def ratio(self, devices: str) -> float:
        """The median, over pools of these devices, of what the mode costs."""
        pairs = zip(self.runs[True].walls_s, self.runs[False].walls_s, strict=True)
        ratios = [reproducible / default for reproducible, default in pairs]
        which = self._devices.index(devices)
        return statistics.median(ratios[which :: len(self._devices)])


def main() -> int:
    """Run the bench; return 0 if no bit differs and the target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    limit_cores(options.cores)
    records = [record for file in workload.generate(options.files) for record in file]
    sequences = sorted({sequence for _, sequence in records})
    counted = f"{len(sequences)} distinct sequences of {options.files} files"
    facts = machine() | {"workload": counted}
    print("\n".join(report.facts_lines(facts)), flush=True)
    from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint

    model = write_seeded_checkpoint(str(OUT), *SHAPES[options.shape])
    params = {"model": model, "precision": options.precision}
    contest = Contest(sequences, params, devices_of(options))
    for number in range(options.repeats):
        print(f"round {number + 1} of {options.repeats}", flush=True)
        contest.round(number)
    first, *others = devices_of(options)
    label = f"reproducible / default on {first}"
    target = report.Target(label, contest.ratio(first), AGAINST_DEFAULT)
    print("\n| mode | median, s | results that differ from the first pool's |")
    print("|---|---|---|")
    for mode, runs in contest.runs.items():
        print(f"| {runs.label} | {runs.median_s:.2f} | {contest.differing[mode]} |")
    print()
    kept = not contest.differing[True]
    print(f"- {'PASS' if kept else 'FAIL'}: no bit of a reproducible run differs")
    is_judged = options.files >= JUDGED_AT
    print(target if is_judged else f"- {label} = {target.ratio:.3f}, not judged")
    for devices in others[: options.repeats - 1]:
        # Its workers have fewer threads than in default mode, and leave cores idle.
        print(f"- reproducible / default on {devices} = {contest.ratio(devices):.3f}")
    return 0 if kept and (target.reached or not is_judged) else 1


def devices_of(options: argparse.Namespace) -> list[str]:
    """Return the devices of each round's pool."""
    if options.device != "cpu":
        return [options.device]
    return [f"cpu:{workers}" for workers in sorted({1, options.cores}, reverse=True)]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--repeats", type=int, default=4, help="rounds (default: 4)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, or the pool's devices")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8M")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    if min(options.repeats, options.files, options.cores) < 1:
        parser.error("--repeats, --files and --cores must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
