"""Many small FASTA files on a card: one process a file, the best script, and gpupool, in one run.

One process a file takes too long for all of them: a sample is run, and the rest extrapolated from
it, which favours the sample's rival a little, since Snakemake's own time is counted for the sample
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import agreement
import measure
import rivals
import workload
from gpu.models import SHAPES, write_checkpoint
from measure import OUT, Runs

ROOM = OUT / "gpu-pipeline"
#: Token budgets of the script; the quicker one counts.
BUDGETS = (16384, 65536)
AGAINST_SCRIPT_AND_FLOOR, AGAINST_PRACTICE = 1.05, 1 / 50


def sample_of(fasta: Path, count: int) -> Path:
    """Copy the first files to a directory of their own."""
    sample = ROOM / "sample"
    sample.mkdir()
    for path in sorted(fasta.glob("*.fasta"))[:count]:
        shutil.copy(path, sample)
    return sample


def main() -> int:
    """Run everyone once; return 0 if the targets are reached, or cannot be judged here."""
    options = parse_arguments()
    on_gpu = measure.GPU = bool(os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    shutil.rmtree(ROOM, ignore_errors=True)
    shutil.rmtree(OUT / "cache", ignore_errors=True)
    counted = workload.write(ROOM / "fasta", options.files, 0)
    checkpoint = Path(write_checkpoint(options.shape))
    task = rivals.Task(ROOM / "fasta", checkpoint, 1)
    walls: dict[str, float] = {}

    def note(label: str, seconds: float) -> None:
        walls[label] = round(seconds, 2)
        print(json.dumps({"workload": str(counted), "wall_s": walls}), flush=True)

    served, floor = Runs("gpupool"), Runs("floor")
    rivals.gpupool(served, ROOM / "served", *task.config)
    note("gpupool", served.walls_s[0])
    rivals.touch_floor(floor, ROOM / "floor", *task.config)
    note("floor", floor.walls_s[0])
    scripts = []
    for budget in BUDGETS:
        script = Runs(f"script, {budget}")
        rivals.single_script(
            script, task, ROOM / f"script{budget}", rivals.ScriptOptions(1, 1, budget)
        )
        scripts.append(script)
        note(script.label, script.walls_s[0])
    count = min(options.sample, options.files)
    practice = Runs("practice")
    sample = rivals.Task(sample_of(task.fasta, count), checkpoint, 1)
    rivals.one_process_per_file(practice, sample, ROOM / "practice")
    practice_s = practice.walls_s[0] * options.files / count
    note(f"one process a file, from a sample of {count}", practice_s)
    best = min(scripts, key=lambda runs: runs.walls_s[0])
    wrote = [runs.directory / "embeddings" for runs in (best, served) if runs.directory]
    difference = agreement.largest_difference(*wrote)
    of_script = served.walls_s[0] / (best.walls_s[0] + floor.walls_s[0])
    of_practice = served.walls_s[0] / practice_s
    judged = {"of_script_and_floor": of_script, "of_practice": of_practice}
    print(json.dumps({**judged, "largest_difference": difference}))
    if not on_gpu:
        return 0
    return int(of_script > AGAINST_SCRIPT_AND_FLOOR or of_practice > AGAINST_PRACTICE)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="650M")
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--sample", type=int, default=4, help="files run one by one (default: 4)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
