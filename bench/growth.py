"""What grows with the number of jobs and models: processor time, memory, descriptors, threads.

Tools that do nothing, under gpupool and under an executor that only touches outputs::

    python bench/growth.py                               5,000 jobs of 50 models, 20,000 of 200
    python bench/growth.py --jobs 500 2000 --per-model 100          a quick look

gpupool runs twice: on two simulated GPUs, which one model after the other gets, and on the CPU,
where all models stay. A short run of all models goes before, so that none of the runs that are
compared is the first to see a model. Processor times are those of all processes together, which
moves less than wall time on a machine that others use.
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
from measure import OUT, RivalFailed, Runs
from process_tree import LogCount, Watch

ROOM = OUT / "growth"
SNAKEFILE = rivals.HERE / "growth.smk"
#: Where a run leaves its files.
RECORDS = Path(".snakemake", "gpupool")
#: Bounds of how much what gpupool adds to a job grows, and the memory of Snakemake's process.
MAX_GROWTH, MAX_EXTRA_BYTES = 1.1, 20_000
#: What Snakemake prints when it hands a job over, and when it has looked after one.
BEGUN, ENDED = LogCount(b"\nrule noop:\n"), LogCount(b" steps (")


@dataclass
class Case:
    """One rival with one number of jobs."""

    name: str
    jobs: int
    models: int
    run: Callable[..., None]
    watch: Watch = field(init=False)
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        self.runs = Runs(f"{self.name}, {self.jobs:,} jobs, {self.models} models")

    def measure(self) -> None:
        """Run it once."""
        directory = ROOM / self.name.replace(" ", "-") / f"{self.jobs}-{self.models}"
        config = ["--config", f"jobs={self.jobs}", f"models={self.models}"]
        with Watch(directory / "bench.log", (BEGUN, ENDED)) as self.watch:
            self.run(self.runs, directory, *config, snakefile=SNAKEFILE)
        print(f"  {self.runs.label}: {self.runs.walls_s[-1]:.1f} s", flush=True)

    @property
    def per_job_ms(self) -> float:
        """Processor time of all processes, a job."""
        return 1e3 * self.runs.cpus_s[-1] / self.jobs

    def quarter_ms(self, what: LogCount, quarter: int) -> float:
        """Processor time of a job while the given quarter of them is handed over, or ends."""
        bounds = [self.jobs * number // 4 for number in (quarter - 1, quarter)]
        from_s, to_s = (self.watch.processor_s_at(what, max(bound, 1)) for bound in bounds)
        return 1e3 * (to_s - from_s) / (bounds[1] - bounds[0])

    def bytes_per_job(self, pattern: str) -> float:
        """Return how large files of the run are, a job."""
        directory = (self.runs.directory or Path()) / RECORDS
        files = [
            path for path in directory.glob(pattern) if path.is_file() and not path.is_symlink()
        ]
        return sum(path.stat().st_size for path in files) / self.jobs

    def cells(self) -> list[str]:
        """Return what the table says of it."""
        most = self.watch.most
        snakemake, files, models = most("snakemake"), most("files"), most("models")
        return [
            f"{self.per_job_ms:.2f}",
            *(f"{self.quarter_ms(BEGUN, quarter):.2f}" for quarter in (1, 4)),
            *(f"{self.quarter_ms(ENDED, quarter):.2f}" for quarter in (2, 4)),
            f"{snakemake.memory_mib:.0f}",
            f"{files.memory_mib:.0f}" if files.processes else "",
            f"{models.processes} ({models.memory_mib:.0f})" if models.processes else "",
            f"{snakemake.descriptors}",
            f"{snakemake.threads}",
            f"{self.bytes_per_job('latest/events.jsonl'):.0f}",
            f"{self.bytes_per_job('**/*'):.0f}",
        ]


ROWS = (
    "processor time of a job, ms",
    "... of handing over one of the first quarter",
    "... of the last quarter",
    "... of looking after one of the second quarter",
    "... of the last quarter",
    "memory of Snakemake's process, MiB at most",
    "memory of file processes, MiB at most",
    "processes of models at most (their memory, MiB)",
    "open files of Snakemake's process at most",
    "threads of Snakemake's process at most",
    "events.jsonl, bytes a job",
    "all records, bytes a job",
)


def judge(cases: list[Case]) -> list[report.Target]:
    """Return whether anything grows faster than with the floor."""
    by_name: dict[str, list[Case]] = {}
    for case in cases:
        by_name.setdefault(case.name, []).append(case)
    floor = by_name.pop("floor")
    found = []
    for name, (small, *_, large) in by_name.items():
        added = [
            case.per_job_ms - least.per_job_ms
            for case, least in ((small, floor[0]), (large, floor[-1]))
        ]
        text = f"{name}: growth of what a job takes beyond the floor's"
        found.append(report.Target(text, added[1] / added[0], MAX_GROWTH))
        extra = per_job_bytes(small, large) - per_job_bytes(floor[0], floor[-1])
        text = f"{name}: bytes of memory for each further job beyond the floor's"
        found.append(report.Target(text, extra, MAX_EXTRA_BYTES))
    return found


def per_job_bytes(small: Case, large: Case) -> float:
    """Return by how much Snakemake's process grows with a further job."""
    mib = [case.watch.most("snakemake").memory_mib for case in (small, large)]
    return (mib[1] - mib[0]) * 2**20 / (large.jobs - small.jobs)


def table(cases: list[Case]) -> list[str]:
    """Return a column for each case."""
    heads = [case.runs.label for case in cases]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, *cells in zip(ROWS, *(case.cells() for case in cases), strict=True):
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Run the bench; return 0 if every target is reached."""
    options = parse_arguments()
    facts = report.begin(ROOM, options.cores)
    pools = (
        ("two simulated GPUs", partial(rivals.gpupool, env={"GPUPOOL_SIMULATE": "2"})),
        ("CPU", rivals.gpupool),
    )
    cases = [
        Case(name, jobs, max(jobs // options.per_model, 1), run)
        for jobs in options.jobs
        for name, run in (("floor", rivals.touch_floor), *pools)
    ]
    all_models = cases[-1].models
    before = [Case(name, 2 * all_models, all_models, run) for name, run in pools]
    try:
        for case in (*before, *cases):
            case.measure()
    except RivalFailed as error:
        print(f"\nFAIL: {error}")
        return 1
    targets = judge(cases)
    print("\n".join(["", *table(cases), "", *map(str, targets)]))
    if options.json:
        report.write_json(options.json, facts, [case.runs for case in cases], targets)
    return 0 if all(target.reached for target in targets) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--jobs", type=int, nargs="+", default=[5_000, 20_000], help="sizes (default: 5000 20000)"
    )
    parser.add_argument("--per-model", type=int, default=100, help="jobs of each (default: 100)")
    parser.add_argument("--cores", type=int, default=2, help="cores for all (default: 2)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    if len(options.jobs) < 2 or options.jobs != sorted(options.jobs) or options.jobs[0] < 4:
        parser.error("--jobs takes at least two sizes, the smaller first, of at least 4 jobs")
    return options


if __name__ == "__main__":
    sys.exit(main())
