"""Snakemake runs that find a server with everything loaded, and two such runs at once.

Each round has FASTA files of its own, none of whose results the server has: Snakemake's floor on
them, inference alone (one call with the model loaded), a run attached to the server, and last two
runs of the same files at once::

    python bench/warm.py
    python bench/warm.py --files 20 --repeats 1      a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import agreement
import report
import rivals
import workload
from measure import OUT, RivalFailed, Runs, end_on_sigterm, environment, limit_cores, machine
from pipeline import SHAPE_8M, WRITE_CHECKPOINT

ROOM = OUT / "warm"
CALL = Path(rivals.__file__).parent / "warm_call.py"
#: A warm run against Snakemake's floor and inference alone, together.
AGAINST_FLOOR_AND_INFERENCE = 1.1
SERVER = ["--gpupool-server", "auto"]


class Contest:
    """All runs, on files that differ from round to round."""

    def __init__(self, files: int, checkpoint: str, cores: int) -> None:
        self.files, self.checkpoint, self.cores = files, checkpoint, cores
        self.floor = Runs("executor that only touches outputs")
        self.inference_s: list[float] = []
        self.first = Runs("the first run, which starts the server")
        self.warm = Runs("a later run, everything loaded")
        self.alone = Runs("a later run, by itself, with workers of its own")
        # What is the quickest in bench/pipeline.py.
        self.options = rivals.ScriptOptions(processes=cores, threads=1, budget=512)
        self.script = Runs(f"hand-written script, {self.options}")

    @property
    def all_runs(self) -> list[Runs]:
        """Return everyone's runs, in the order of the table."""
        return [self.floor, self.script, self.first, self.warm, self.alone]

    def task(self, seed: int) -> rivals.Task:
        """Write the files of a seed, unless they are there."""
        fasta = ROOM / f"fasta{seed}"
        if not fasta.exists():
            workload.write(fasta, self.files, seed)
        return rivals.Task(fasta, Path(self.checkpoint), self.cores)

    def start(self) -> None:
        """Have the server started, and everything loaded."""
        rivals.gpupool(self.first, ROOM / "first", *SERVER, *self.task(0).config)
        say(f"  {self.first.label}: {self.first.walls_s[-1]:.2f} s")

    def round(self, number: int) -> None:
        """Run each once on files of the round."""
        task, room = self.task(number), ROOM / f"round{number}"
        rivals.touch_floor(self.floor, room / "floor", *task.config)
        rivals.single_script(self.script, task, room / "script", self.options)
        self.inference_s.append(self._inference_s(task))
        rivals.gpupool(self.warm, room / "warm", *SERVER, *task.config)
        rivals.gpupool(self.alone, room / "alone", *task.config)
        for runs in (self.floor, self.script, self.warm, self.alone):
            say(f"  {runs.label}: {runs.walls_s[-1]:.2f} s")
        say(f"  inference alone: {self.inference_s[-1]:.2f} s")

    def _inference_s(self, task: rivals.Task) -> float:
        command = [sys.executable, str(CALL), str(self.task(0).fasta), str(task.fasta)]
        done = subprocess.run(
            [*command, self.checkpoint],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RivalFailed(f"inference alone: {done.stderr}")
        return float(done.stdout.split()[-1])

    def two_at_once(self, seed: int) -> tuple[float, list[dict[str, Any]]]:
        """Run the same files twice at once; return the wall time and both summaries."""
        task, room = self.task(seed), ROOM / "two"
        rooms = [room / name for name in ("one", "other")]
        options = ["--profile", str(rivals.PROFILE), *SERVER, *task.config]
        command = rivals.snakemake(rivals.EMBED, "gpupool", *options)
        start_s = time.perf_counter()
        processes = []
        for each in rooms:
            each.mkdir(parents=True)
            with (each / "bench.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=each, env=environment(), stdout=log, stderr=subprocess.STDOUT
                    )
                )
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RivalFailed(f"two runs at once: see bench.log in {room}")
        wall_s = time.perf_counter() - start_s
        return wall_s, [summary_of(each) for each in rooms]


def summary_of(directory: Path) -> dict[str, Any]:
    """Return a run's figures."""
    path = directory / ".snakemake" / "gpupool" / "latest" / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def gpupool(*words: str) -> None:
    """Run the command."""
    subprocess.run(["gpupool", *words], env=environment(), check=False, capture_output=True)


def main() -> int:
    """Run the bench; return 0 if outputs agree and the targets are reached."""
    options = parse_arguments()
    end_on_sigterm()
    cores = limit_cores(options.cores)
    shutil.rmtree(ROOM, ignore_errors=True)
    say("\n".join(report.facts_lines(machine())))
    shape = [str(number) for number in SHAPE_8M]
    write = [sys.executable, "-c", WRITE_CHECKPOINT, str(OUT), *shape]
    checkpoint = subprocess.run(
        write, check=True, env=environment(), stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    contest = Contest(options.files, checkpoint, cores)
    try:
        contest.start()
        for number in range(1, options.repeats + 1):
            say(f"\nround {number} of {options.repeats}, load {os.getloadavg()[0]:.1f}")
            contest.round(number)
        two_s, summaries = contest.two_at_once(options.repeats + 1)
        room = ROOM / f"round{options.repeats}"
        difference = agreement.largest_difference(
            room / "warm" / "embeddings", room / "alone" / "embeddings"
        )
    except (RivalFailed, agreement.Disagreement) as error:
        say(f"\nFAIL: {error}")
        return 1
    finally:
        gpupool("serve", "--stop")
    say("\n".join(["", *report.table(contest.all_runs)]))
    rounds = [ROOM / f"round{n}" / "warm" for n in range(1, options.repeats + 1)]
    loads = sum(summary_of(each)["model_loads"] for each in rounds)
    records = workload.generate(options.files, options.repeats + 1)
    unique = len({sequence for file in records for _, sequence in file})
    computed = sum(each["items_computed"] for each in summaries)
    inference_s = statistics.median(contest.inference_s)
    say(f"\n- inference alone: {inference_s:.2f} s")
    say(f"- models loaded by later runs: {loads}")
    say(f"- two runs at once: {two_s:.2f} s, {computed} items computed, {unique} distinct")
    say(f"- largest difference from a run without a server: {difference:.1e}")
    ratio = contest.warm.median_s / (contest.floor.median_s + inference_s)
    against_script = contest.warm.median_s / contest.script.median_s
    say(f"- warm / the script: {against_script:.2f}")
    target = report.Target("warm / (floor + inference)", ratio, AGAINST_FLOOR_AND_INFERENCE)
    say(str(target))
    is_right = loads == 0 and computed == unique and difference <= agreement.TOLERANCE
    return 0 if is_right and target.reached else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="cores (default: 2)")
    options = parser.parse_args()
    if min(options.files, options.repeats, options.cores) < 1:
        parser.error("--files, --repeats and --cores must be at least 1")
    return options


def say(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
