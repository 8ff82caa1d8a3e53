"""Very short plain jobs on a cluster: gpupool's agents, groups, and one ``sbatch`` for each.

``python bench/short_jobs.py`` (root, Debian) starts a real Slurm of two nodes on this machine and
runs jobs that sleep 0.1 s: through the agents of two pilots (``--gpupool-cpu-rules cluster``), in
groups there, and as Slurm jobs of their own without any Snakemake, which is the least that an
executor with one job a submission can take. Of the last there may be fewer (``--sbatch-jobs``):
each costs the same. ``agents``, ``groups`` or ``sbatch`` as an argument runs only that.

Printed is what a job costs beyond its own time, of a slot that runs one job after the other. A
group of Snakemake's runs its jobs side by side, whatever they ask for, so of groups only the time
of the whole is said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.acceptance.running import Finished
from tests.slurm.machine import NoSlurm, running_slurm
from tests.slurm.running import OnSlurm

SLEEP_S = 0.1
MOST_MS = 50.0
PILOTS = ("--gpupool-cluster", "slurm", "--gpupool-nodes", "2", "--gpupool-gpus-per-node", "0")
SIZE = ("--gpupool-memory-per-node", "1GiB", "--gpupool-cpu-rules", "cluster")
SNAKEFILE = """
rule all:
    input: expand("done/{i}", i=range(JOBS))

rule short:
    output: "done/{i}"
    shell: "sleep 0.1; date +%s.%N > {output}"
"""
#: How many cores the Slurm has.
SLURM_SLOTS = 16
#: Each of the jobs in groups, and so many in a group.
GROUPS = ("--groups", "short=short", "--group-components")


class ShortJobs(OnSlurm):
    """Jobs that sleep a little."""

    def __init__(self, directory: Path, jobs: int) -> None:
        super().__init__(directory, jobs=0)
        (directory / "Snakefile").write_text(SNAKEFILE.replace("JOBS", str(jobs)))


def span_s(directory: Path, jobs: int) -> float:
    """The time from the first job's end to the last one's, for all but one job."""
    ends_s = sorted(float(path.read_text()) for path in (directory / "done").iterdir())
    assert len(ends_s) == jobs, f"{len(ends_s)} of {jobs} jobs are done"
    return (ends_s[-1] - ends_s[0]) * jobs / (jobs - 1)


def on_agents(jobs: int, cores: int, *more: str) -> float:
    """Seconds that so many jobs take on the agents."""
    with tempfile.TemporaryDirectory(prefix="gpupool-bench-") as directory:
        workflow = ShortJobs(Path(directory).resolve(), jobs)
        size = (*SIZE, "--gpupool-cores-per-node", str(cores))
        run: Finished = workflow.run(*PILOTS, *size, *more, timeout_s=900)
        assert run.code == 0, run.text[-3000:]
        return span_s(workflow.directory, jobs)


def as_slurm_jobs(jobs: int) -> float:
    """Seconds that they take as Slurm jobs of one core each; no Snakemake is in the way."""
    with tempfile.TemporaryDirectory(prefix="gpupool-bench-") as directory:
        done = Path(directory, "done")
        done.mkdir()
        start_s = time.time()
        for number in range(jobs):
            body = f"sleep {SLEEP_S}; date +%s.%N > {done}/{number}"
            options = ["--quiet", "--parsable", "-n1", "--output=/dev/null", "--wrap", body]
            subprocess.run(["sbatch", *options], check=True, stdout=subprocess.DEVNULL)
        while len(list(done.iterdir())) < jobs:
            time.sleep(0.1)
        time.sleep(0.5)
        return max(float(path.read_text()) for path in done.iterdir()) - start_s


def main() -> None:
    """Measure, print, and tell by the exit code whether the target was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", help="agents, groups, sbatch; default: all")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--sbatch-jobs", type=int, default=300, help="of these, at most")
    parser.add_argument("--cores", type=int, default=2, help="of each of the two pilots")
    options = parser.parse_args()
    ways = options.ways or ["agents", "groups", "sbatch"]
    os.environ["GPUPOOL_PROFILE"] = "off"
    jobs, cores = options.jobs, options.cores
    slots = 2 * cores
    beyond_ms = 0.0
    print(f"least possible: {jobs * SLEEP_S / slots:.1f} s for {jobs} jobs, {slots} at once")
    try:
        with running_slurm():
            if "agents" in ways:
                beyond_ms = show("agents", on_agents(jobs, cores), jobs, slots)
            if "groups" in ways:
                size = max(jobs // slots, 1)
                show(f"groups of {size}", on_agents(jobs, cores, *GROUPS, f"short={size}"), jobs)
            if "sbatch" in ways:
                sample = min(jobs, options.sbatch_jobs)
                show("sbatch", as_slurm_jobs(sample), sample, SLURM_SLOTS)
    except NoSlurm as why:
        sys.exit(f"not measured: {why}")
    print("PASS" if beyond_ms <= MOST_MS else f"FAIL (to reach: {MOST_MS:.0f} ms)")
    sys.exit(beyond_ms > MOST_MS)


def show(label: str, wall_s: float, jobs: int, slots: int = 0) -> float:
    """Print how long jobs took, and return what each cost beyond its own time, in ms."""
    beyond_ms = 1000 * (wall_s * slots / jobs - SLEEP_S)
    of_slots = f"; {slots} at once, {beyond_ms:.0f} ms beyond its own time" if slots else ""
    each_ms, load = 1000 * wall_s / jobs, os.getloadavg()[0]
    print(
        f"{label}: {wall_s:.1f} s for {jobs} jobs, {each_ms:.1f} ms a job{of_slots} (load "
        f"{load:.1f})",
        flush=True,
    )
    return beyond_ms


if __name__ == "__main__":
    main()
