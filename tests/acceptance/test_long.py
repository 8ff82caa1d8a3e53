"""A log that stays readable, and progress that says what matters (R1, W10)."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow

MANY = """
rule all:
    input: expand("out/{i}.up", i=range(300))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=0.25
    script: "textual.py"
"""


def test_progress_lines_are_few_and_say_what_matters(tmp_path: Path) -> None:  # R1 W10 P6
    files = {f"in/{i}.txt": f"word{i:04}\n" for i in range(300)}
    run = Workflow(tmp_path, MANY, files).run(
        "--gpupool-devices", "cpu:1", "--quiet", "rules", "host", "progress"
    )
    assert run.code == 0, run.text
    ours = [line for line in run.text.splitlines() if line.startswith("gpupool: Textual")]
    assert 1 <= len(ours) <= 10
    for word in ("unique items", "items/s", "ETA", "on cpu:0"):
        assert word in ours[0], ours
    assert len(run.text.splitlines()) < 100
    closing = [line for line in run.text.splitlines() if line.startswith("gpupool: served")]
    assert (
        len(closing) == 1
        and "served 300 jobs: 300 items, 300 computed, 1 model loads" in closing[0]
    )
    kinds = {event["event"] for event in run.events()}
    expected = {"run_started", "job_submitted", "worker_started", "device_granted", "model_loaded"}
    assert kinds >= expected | {"batch_sent", "batch_done", "job_done", "worker_ended", "run_ended"}
