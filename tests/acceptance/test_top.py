"""``gpupool top`` beside a real run: one frame, and a terminal that follows it to its end."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.acceptance.running import Workflow
from tests.waiting import eventually

SLOW = """
rule all:
    input: expand("out/{i}.up", i=range(8))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=1.5
    script: "textual.py"
"""
TOP = [str(Path(sys.executable).with_name("gpupool")), "top"]


def follow(directory: Path) -> tuple[int, str]:
    """Run ``gpupool top`` in a terminal of its own; return its exit code and what it drew."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen(
        TOP, cwd=directory, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: nobody has the terminal any longer
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    return process.wait(60), drawn.decode(errors="replace")


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:  # R1
    files = {f"in/{i}.txt": f"word{i}\n" for i in range(8)}
    workflow = Workflow(tmp_path, SLOW, files)
    run = workflow.start("--gpupool-devices", "cpu:1")
    shot: dict[str, object] = {}

    def has_finished_one() -> object:
        done = subprocess.run(
            [*TOP, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        shot.update(json.loads(done.stdout) if done.returncode == 0 else {})
        assert run.poll() is None or shot, run.communicate()[0]
        return shot.get("jobs_done")

    assert eventually(has_finished_one, 120.0), shot
    assert shot["state"] == "going" and shot["jobs_known"] == 8
    once = subprocess.run(
        [*TOP, "--once"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "going" in once.stdout and "cpu:0" in once.stdout and "\x1b" not in once.stdout
    code, drawn = follow(tmp_path)
    printed = run.communicate(timeout=60)[0]
    assert run.returncode == 0, printed
    assert code == 0
    assert "\x1b[?1049h" in drawn and "\x1b[?1049l" in drawn, "the screen is put back"
    last = drawn.rpartition("\x1b[?1049l")[2]
    assert "ended" in last and "jobs 8 of 8" in last
    latest = (tmp_path / ".snakemake/gpupool/latest").resolve()
    again = workflow.run("--gpupool-devices", "cpu:1")
    assert "Nothing to be done" in again.text
    assert (tmp_path / ".snakemake/gpupool/latest").resolve() == latest
