"""``breakpoint()`` in a tool that ``gpupool run`` runs: the debugger talks to the terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = """
from pathlib import Path
from snakemake_executor_gpupool import Tool

class Stops(Tool):
    defaults = {"model": "m"}
    devices = ("cpu",)

    def load(self, device):
        IN_LOAD
        self.suffix = "!"

    def read(self, job):
        IN_READ
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        IN_RUN
        return [item + self.suffix for item in items]

    def write(self, job, results):
        IN_WRITE
        Path(job.output[0]).write_text(" ".join(results))
"""


def talk(command: list[str], directory: Path, says: list[tuple[str, str]]) -> tuple[int, str]:
    """Run a command on a terminal of its own; answer what it says. Return its code and text."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, cwd=directory, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    text, waiting = "", list(says)
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        try:
            text += os.read(leader, 4096).decode()
        except OSError:  # it has ended
            break
        if waiting and text.rstrip().endswith(waiting[0][0]):
            os.write(leader, f"{waiting.pop(0)[1]}\n".encode())
    code = process.wait(60)
    os.close(leader)
    return code, text


@pytest.mark.parametrize("method", ["LOAD", "READ", "RUN", "WRITE"])
def test_a_breakpoint_stops_in_the_tool(method: str, tmp_path: Path) -> None:
    source = TOOL.replace(f"IN_{method}", "breakpoint()")
    for other in ("LOAD", "READ", "RUN", "WRITE"):
        source = source.replace(f"IN_{other}", "pass")
    (tmp_path / "stops.py").write_text(source)
    (tmp_path / "in.txt").write_text("a b")
    command = [sys.executable, "-m", "snakemake_executor_gpupool.frontends.commandline.main"]
    command += ["run", "stops.py:Stops", "--input", "in.txt", "--output", "out.txt"]
    says = [("(Pdb)", "print('model is', self.params.model)"), ("(Pdb)", "continue")]
    code, text = talk(command, tmp_path, says)
    assert code == 0, text
    assert "model is m" in text and "stops.py" in text
    assert (tmp_path / "out.txt").read_text() == "a! b!"
