"""Ends that are nobody's wish: a callback that fails, signals that come twice, a kill (S10)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.running import Workflow
from tests.acceptance.test_faults import worker_pids
from tests.waiting import eventually

SNAKEFILE = """
PATCH

rule all:
    input: expand("out/{i}.up", i=range(6)), expand("slow{i}.txt", i=range(4))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    log: "log/{i}.log"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=SLEEP
    script: "textual.py"

rule slow:
    output: "slow{i}.txt"
    shell: "SHELL touch {output}"
"""
SHELL = "sleep 7541;"
#: Snakemake's own code fails when an error of job 0 is to be printed.
PATCH = """
import snakemake.jobs
told = snakemake.jobs.Job.get_log_error_info
def get_log_error_info(job, *arguments, **named):
    if job.wildcards.get("i") == "0" and job.rule.name == "up":
        raise UnicodeError("boom")
    return told(job, *arguments, **named)
snakemake.jobs.Job.get_log_error_info = get_log_error_info
"""
INPUTS = {f"in/{i}.txt": "bad\n" if i == 0 else "x" * 9 + f"{i}\n" for i in range(6)}


def workflow(
    directory: Path, patch: str = "", sleep_s: float = 1.0, shell: str = SHELL
) -> Workflow:
    text = SNAKEFILE.replace("PATCH", patch).replace("SLEEP", str(sleep_s))
    text = text.replace("SHELL", shell)
    return Workflow(directory, text, INPUTS)


def sleepers(directory: Path) -> set[int]:
    """The processes of the CPU rule's commands in this directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            is_one = (entry / "cmdline").read_bytes() == b"sleep\x007541\x00"
            if is_one and (entry / "cwd").readlink() == directory:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_a_failing_callback_ends_the_run(tmp_path: Path) -> None:
    """With its cause, and with every job reported, those that run beside the pool among them."""
    started_s = time.monotonic()
    run = workflow(tmp_path, PATCH).run("--cores", "2", "--keep-going")
    assert time.monotonic() - started_s < 30
    assert run.code == 1
    assert "gpupool itself failed, which is a bug: UnicodeError('boom')" in run.text
    assert run.text.count("Error in rule up") + len(list((tmp_path / "out").glob("*.up"))) == 5
    assert run.text.count("Error in rule slow") == 4
    assert eventually(lambda: not worker_pids(tmp_path) and not sleepers(tmp_path))


@pytest.mark.parametrize(
    ("numbers", "grace_s"), [((signal.SIGINT,) * 3, 600), ((signal.SIGTERM,) * 2, 5)]
)
def test_signals_may_come_more_than_once(
    tmp_path: Path, numbers: tuple[int, ...], grace_s: float
) -> None:
    """Commands that do not end when told to have a grace, or until the second Ctrl-C."""
    deaf = f"trap '' TERM; {SHELL}"
    patch = (
        "from snakemake_executor_gpupool.frontends.snakemake import signals\n"
        f"signals.CANCEL_GRACE_S, signals.STUCK_S = {grace_s}, 600.0\n"
    )
    run = workflow(tmp_path, patch, sleep_s=3000.0, shell=deaf).start("--cores", "2")
    assert eventually(lambda: len(sleepers(tmp_path)) == 2 and worker_pids(tmp_path), 60)
    for number in numbers:
        if run.poll() is None:
            run.send_signal(number)
        time.sleep(1.2)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 1, text
    assert "Traceback" not in text and "Exception ignored" not in text, text
    assert eventually(lambda: not worker_pids(tmp_path) and not sleepers(tmp_path))


def test_a_run_that_cannot_end_is_ended(tmp_path: Path) -> None:
    """Its main thread holds Snakemake's lock, for which everything else waits."""
    patch = """
import time, snakemake.scheduling.job_scheduler as scheduling
def finish_jobs(scheduler):
    while scheduler._tofinish:
        try:
            time.sleep(3600)
        except KeyboardInterrupt:
            pass
scheduling.JobScheduler._finish_jobs = finish_jobs
"""
    run = workflow(tmp_path, patch, sleep_s=0.2).start("--cores", "2")
    log = tmp_path / ".snakemake/gpupool/latest/events.jsonl"
    assert eventually(lambda: log.exists() and '"job_done"' in log.read_text(), 60)
    started_s = time.monotonic()
    run.send_signal(signal.SIGTERM)
    text, _ = run.communicate(timeout=60)
    assert time.monotonic() - started_s < 30
    assert run.returncode == 128 + signal.SIGTERM, text
    assert "the run did not end by itself after SIGTERM" in text
    assert eventually(lambda: not worker_pids(tmp_path) and not sleepers(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_run_leaves_nothing_in_memory(tmp_path: Path, number: int) -> None:
    run = workflow(tmp_path, sleep_s=30.0).start("--cores", "2")
    assert eventually(lambda: worker_pids(tmp_path), 60)
    spools = list(Path("/dev/shm").glob(f"gpupool-{run.pid}-*"))
    assert spools
    (spools[0] / "1-2.blob").write_bytes(bytes(10_000))
    os.kill(run.pid, number)
    run.wait(timeout=60)
    assert eventually(lambda: not worker_pids(tmp_path))
    assert eventually(lambda: not any(spool.exists() for spool in spools))
    for pid in sleepers(tmp_path):  # shell children of CPU rules outlive it, as under local
        os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=60)
