"""Throughput of four agents against one, on a real Slurm of two nodes on this machine.

``python bench/cluster.py`` (root, Debian) runs work that only sleeps, in shards of 1 s, so that
what is measured is the pool's own part: pilots with a card each, two on a node. It prints shards
per second, from the first batch that was sent to the last one that was done.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.slurm.machine import NoSlurm, running_slurm
from tests.slurm.running import OnSlurm

TO_REACH = 3.6
LINES_PER_JOB = 4  # one line is a shard
PILOTS = ("--gpupool-cluster", "slurm", "--gpupool-gpus-per-node", "1")
SIZE = ("--gpupool-cores-per-node", "2", "--gpupool-memory-per-node", "1GiB")


def shards_per_s(agents: int, seconds: int) -> float:
    """Run so much work on so many agents; return what they got done a second."""
    jobs = agents * seconds // LINES_PER_JOB
    with tempfile.TemporaryDirectory(prefix="gpupool-bench-") as directory:
        workflow = OnSlurm(Path(directory).resolve(), jobs=jobs, sleep_s=1.0)
        # One agent alone begins no earlier than four do.
        run = workflow.run(*PILOTS, *SIZE, "--gpupool-nodes", str(agents), timeout_s=600)
        workflow.check(run)
        devices = {device for event in run.events("device_granted") for device in event["devices"]}
        assert len(devices) == agents, devices
        begun_s = run.events("batch_sent")[0]["time_s"]
        ended_s = run.events("batch_done")[-1]["time_s"]
    return float(jobs * LINES_PER_JOB / (ended_s - begun_s))


def main() -> None:
    """Measure, print, and tell by the exit code whether the target was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of work for each agent")
    options = parser.parse_args()
    os.environ["GPUPOOL_PROFILE"] = "off"
    print(f"load at the start: {os.getloadavg()[0]:.2f}")
    try:
        with running_slurm():
            one, four = shards_per_s(1, options.seconds), shards_per_s(4, options.seconds)
    except NoSlurm as why:
        sys.exit(f"not measured: {why}")
    ratio = four / one
    verdict = "PASS" if ratio >= TO_REACH else "FAIL"
    print(
        f"1 agent {one:.3f} shards/s, 4 agents {four:.3f} shards/s: {ratio:.2f} times "
        f"(to reach: {TO_REACH}) {verdict}"
    )
    sys.exit(verdict != "PASS")


if __name__ == "__main__":
    main()
