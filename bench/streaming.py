"""Whether results come while the pool still works: 120 FASTA files, a CPU rule behind each.

The pool's phase is from its start until the last job that it serves is done; a job counts when
its outputs are in place::

    python bench/streaming.py
    python bench/streaming.py --files 24 --repeats 1       a quick look
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import report
import rivals
import workload
from measure import OUT, RivalFailed, Runs, end_on_sigterm, limit_cores, machine
from timeline import LATEST, summary

ROOM = OUT / "streaming"
STREAM = rivals.HERE / "stream.smk"
FIRST_BY = 0.35
SHAPE_8M = (6, 320, 20)


@dataclass(frozen=True)
class Flow:
    """When results came, in shares of the pool's phase, and what devices did meanwhile.

    Attributes
    ----------
    phase_s
        Seconds of the pool's phase.
    first, half
        When the first job and half of the jobs were done.
    overlapped
        Share of the downstream jobs that ran before the last micro-batch was done.
    idle
        Share of the devices' time, from the first loaded model to the last batch, that they idled.
    """

    phase_s: float
    first: float
    half: float
    overlapped: float
    idle: float

    def __str__(self) -> str:
        shares = (self.first, self.half, self.overlapped, self.idle)
        return f"| {self.phase_s:.2f} | " + " | ".join(f"{share:.0%}" for share in shares) + " |"


def flow_of(runs: Runs) -> Flow:
    """Read the latest run's flow from the files that it left."""
    directory = runs.directory or Path()
    lines = (directory / LATEST / "events.jsonl").read_text().splitlines()
    times: dict[str, list[float]] = {}
    for event in map(json.loads, lines):
        times.setdefault(event["event"], []).append(event["time_s"])
    start_s, done = times["run_started"][0], sorted(times["job_done"])
    phase_s = done[-1] - start_s
    noted = [float(path.read_text()) for path in (directory / "noted").iterdir()]
    last_batch_s = max(times["batch_done"])
    busy = [device["busy_s"] for device in summary(runs)["devices"].values()]
    device_s = sum(seconds > 0 for seconds in busy) * (last_batch_s - times["model_loaded"][0])
    return Flow(
        phase_s=phase_s,
        first=(done[0] - start_s) / phase_s,
        half=(done[len(done) // 2] - start_s) / phase_s,
        overlapped=sum(time_s < last_batch_s for time_s in noted) / len(noted),
        idle=1.0 - sum(busy) / device_s,
    )


def main() -> int:
    """Run the bench; return 0 if the target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    cores = limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    counted = workload.write(ROOM / "fasta", options.files)
    print("\n".join(report.facts_lines(machine() | {"workload": str(counted)})), flush=True)
    from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint

    checkpoint = Path(write_seeded_checkpoint(str(OUT), *SHAPE_8M))
    config = rivals.Task(ROOM / "fasta", checkpoint, cores).config
    runs, flows = Runs("gpupool"), []
    print("\n| phase, s | first job done | half of them | downstream within | devices idle |")
    print("|---|---|---|---|---|")
    try:
        for number in range(options.repeats):
            place = ROOM / f"round{number}"
            rivals.gpupool(runs, place, "stream", "--cores", str(cores), *config, snakefile=STREAM)
            flows.append(flow_of(runs))
            print(flows[-1], flush=True)
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    first = statistics.median(flow.first for flow in flows)
    target = report.Target("first output, share of the pool's phase", first, FIRST_BY)
    overlaps = all(flow.overlapped > 0 for flow in flows)
    print(f"\n{target}")
    print(f"- {'PASS' if overlaps else 'FAIL'}: the downstream rule overlaps the pool's work")
    return 0 if target.reached and overlaps else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if min(options.repeats, options.files, options.cores) < 1:
        parser.error("--repeats, --files and --cores must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
