"""Tools to whose files something happens after the jobs were submitted, before they are read.

What happens is ``spoil.sh`` in the working directory. It runs when the first process that
reads files imports this module, once as many jobs as ``jobs.txt`` says were submitted.
"""

import os
import resource
import subprocess
import time
from pathlib import Path

from textual import Textual

from snakemake_executor_gpupool.tools.esm2 import Esm2Embed


def spoil():
    """Run the script, once; wait for it if another process runs it."""
    expected = int(Path("jobs.txt").read_text())
    log = Path(".snakemake/gpupool/latest/events.jsonl")
    deadline_s = time.monotonic() + 30
    while log.read_text().count('"job_submitted"') < expected and time.monotonic() < deadline_s:
        time.sleep(0.02)
    try:
        Path("spoiling").mkdir()
    except FileExistsError:
        while not Path("spoiled").exists():
            time.sleep(0.02)
        return
    subprocess.run(["sh", "-e", "spoil.sh"], check=True)
    Path("spoiled").touch()


class Lines(Textual):
    """Capitals, and as much more as a job's params say."""

    defaults = {**Textual.defaults, "more_bytes": 0, "most_bytes": -1}

    def write(self, job, results):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.params.most_bytes >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.params.most_bytes, before[1]))
        try:
            super().write(job, results)
            with Path(job.output[0]).open("ab") as file:
                file.write(bytes(self.params.more_bytes))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Embed(Esm2Embed):
    """The built-in tool."""


if ".files" in os.environ.get("GPUPOOL_WORKER", "") and Path("spoil.sh").exists():
    spoil()
