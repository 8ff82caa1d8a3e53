"""A tool that takes its time in everything it does, so that a test can meet it there."""

import subprocess
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Paced(Tool):
    """Turns each line into capitals, and adds the model's name."""

    defaults = {"model": "m", "pace_s": 0.02, "child": ""}
    reload_on = ("model", "pace_s", "child")
    devices = ("cuda", "cpu")

    def pause(self, paces=1):
        time.sleep(paces * self.params.pace_s)

    def load(self, device):
        if self.params.child:
            subprocess.Popen(self.params.child.split())
        self.pause(15)
        self.loaded = self.params.model

    def to(self, device):
        self.pause(10)

    def read(self, job):
        self.pause()
        for path in job.input:
            yield from Path(path).read_text().splitlines()

    def batch_tokens(self, device):
        return 4

    def run(self, items):
        self.pause(len(items))
        return [f"{item.upper()}.{self.loaded}" for item in items]

    def write(self, job, results):
        with Path(job.output[0]).open("w") as file:
            for line in results:
                file.write(f"{line}\n")
                file.flush()
            self.pause()


if "snakemake" in globals():
    Paced.main(snakemake)  # noqa: F821
