"""The frontend that the page on extending gpupool shows does its job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.pages import code_blocks

TOOL = """
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Score(Tool):
    reload_on = ("model",)

    def load(self, device):
        self.weight = int(Path(self.params.model).read_text())

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [self.weight * len(item) for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(map(str, results)))
"""


def test_the_frontend_of_the_page_serves_its_job(tmp_path: Path) -> None:
    (shown,) = code_blocks("extending.md")
    files = {"score.py": TOOL, "dna.txt": "ACGT A", "model.txt": "3", "frontend.py": shown}
    for name, text in files.items():
        tmp_path.joinpath(name).write_text(text)
    last = "\nassert [report.error for report in reports] == [None]\n"
    done = subprocess.run(
        [sys.executable, "-c", shown + last],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tmp_path.joinpath("scores.txt").read_text() == "12 3"
    assert "served 1 jobs: 2 items" in done.stdout
