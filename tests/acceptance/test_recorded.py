"""A real run with a killed worker, a failing job and a leased card, recorded and replayed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance.running import Workflow
from tests.acceptance.test_faults import INPUTS, SLOW, eventually, worker_at_new_work

LEASED = """
rule leased:
    output: "leased.txt"
    resources: gpu=1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
"""


def test_a_recorded_run_is_decided_again_as_it_was(tmp_path: Path) -> None:
    snakefile = SLOW.replace("SLEEP", "0.3").replace("range(8))", "range(8)), 'leased.txt'")
    files = {**INPUTS, "in/5.txt": "bad\n"}
    workflow = Workflow(tmp_path, snakefile + LEASED, files)
    run = workflow.start("--keep-going", GPUPOOL_SIMULATE="2", GPUPOOL_RECORD="1")
    latest = tmp_path / ".snakemake/gpupool/latest"
    log = latest / "events.jsonl"
    assert eventually(lambda: log.exists() and bool(worker_at_new_work(log)), 60)
    pid = worker_at_new_work(log)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 1, text
    summary = json.loads((latest / "summary.json").read_text())
    assert (summary["worker_crashes"], summary["jobs_failed"], summary["jobs_served"]) == (1, 1, 7)
    recording = latest / "recording.jsonl"
    assert recording.stat().st_mode & 0o777 == 0o600
    # In another process, with other hashes.
    command = [sys.executable, "-m", "snakemake_executor_gpupool.frontends.commandline.main"]
    replayed = subprocess.run(
        [*command, "replay", "--print", str(latest)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert replayed.returncode == 0, replayed.stdout[-3000:] + replayed.stderr
    *shown, last = replayed.stdout.splitlines()
    assert last.endswith("effects: the same as recorded")
    for told in ("WorkerEnded", "DevicesClaimed", "LeaseEnded", "-> GrantLease", "-> RunBatch"):
        assert any(told in line for line in shown), told
    assert any("-> Report" in line and "this line is bad" in line for line in shown)
