"""What duplicates cost: files of which 90% repeat sequences, against the same without these.

Both have the same number of files and of different sequences, so that what the repeats cost is
their reading, collapsing, and writing::

    python bench/duplicates.py
    python bench/duplicates.py --files 12 --repeats 1       a quick look
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

import agreement
import report
import rivals
import workload
from measure import OUT, RivalFailed, Runs, end_on_sigterm, limit_cores, machine
from timeline import summary

ROOM = OUT / "duplicates"
#: Of all records, this share repeats a sequence.
SHARE = 0.9
PER_FILE = 3
MAX_RATIO = 1.15
SHAPE_8M = (6, 320, 20)


def write_workloads(files: int, seed: int = 0) -> tuple[Path, Path]:
    """Write the files without and with repeats; return both directories."""
    rng = random.Random(seed)
    unique = [[workload.protein(rng) for _ in range(PER_FILE)] for _ in range(files)]
    everything = [sequence for sequences in unique for sequence in sequences]
    repeats = round(PER_FILE * SHARE / (1 - SHARE))
    directories = ROOM / "fasta-unique", ROOM / "fasta-repeats"
    for directory in directories:
        directory.mkdir(parents=True)
    for number, sequences in enumerate(unique):
        repeated = [*sequences, *rng.choices(everything, k=repeats)]
        for directory, chosen in zip(directories, (sequences, repeated), strict=True):
            text = "".join(f">p{n}\n{workload.wrapped(s)}\n" for n, s in enumerate(chosen))
            (directory / f"s{number:04d}.fasta").write_text(text)
    return directories


def difference(unique: Runs, repeats: Runs, files: int) -> float:
    """Return how far the numbers of the records that both runs have are apart.

    Raises
    ------
    agreement.Disagreement
        A run has computed another number of sequences than there are, or lacks a record.
    """
    import numpy as np

    for runs in (unique, repeats):
        if summary(runs)["items_unique"] != PER_FILE * files:
            raise agreement.Disagreement(
                f"{runs.label}: computed {summary(runs)['items_unique']} sequences, "
                f"there are {PER_FILE * files}"
            )
    largest = 0.0
    for path in sorted((unique.directory or Path()).glob("embeddings/*.npz")):
        with (
            np.load(path) as ours,
            np.load((repeats.directory or Path()) / path.parent.name / path.name) as theirs,
        ):
            if not set(ours.files) < set(theirs.files):
                raise agreement.Disagreement(f"{path} has records that the other run lacks")
            largest = max(largest, *(np.abs(ours[n] - theirs[n]).max() for n in ours.files))
    return float(largest)


def main() -> int:
    """Run the bench; return 0 if the numbers agree and the target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    cores = limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    print("\n".join(report.facts_lines(machine())), flush=True)
    directories = write_workloads(options.files)
    from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint

    checkpoint = Path(write_seeded_checkpoint(str(OUT), *SHAPE_8M))
    both = Runs("without repeats"), Runs(f"{SHARE:.0%} repeats")
    try:
        for number in range(options.repeats):
            print(f"round {number + 1} of {options.repeats}", flush=True)
            for runs, fasta in zip(both, directories, strict=True):
                task = rivals.Task(fasta, checkpoint, cores)
                rivals.gpupool(runs, ROOM / f"round{number}" / fasta.name, *task.config)
                print(f"  {runs.label}: {runs.walls_s[-1]:.2f} s", flush=True)
        largest = difference(*both, options.files)
    except (RivalFailed, agreement.Disagreement) as error:
        print(f"\nFAIL: {error}")
        return 1
    agreed = largest <= agreement.TOLERANCE
    target = report.Target("with / without repeats", both[1].median_s / both[0].median_s, MAX_RATIO)
    print("\n".join(["", *report.table(both), ""]))
    print(f"- {'PASS' if agreed else 'FAIL'}: outputs agree; largest difference {largest:.1e}")
    print(target)
    return 0 if agreed and target.reached else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=80, help="FASTA files (default: 80)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if min(options.repeats, options.files, options.cores) < 1:
        parser.error("--repeats, --files and --cores must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
