"""A light tool: a word in, its properties out. Reads lines, writes lines."""

import os
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Textual(Tool):
    """Turns each line of a text file into capitals, with a suffix that the model's name gives."""

    defaults = {"model": "plain", "suffix": "", "sleep_s": 0.0, "pid": False}
    devices = ("cuda", "cpu")

    def load(self, device):
        if self.params.model == "missing" or self.params.model.endswith(".absent"):
            raise FileNotFoundError(2, "no such weights", "weights.pt")
        if self.params.model.endswith(".once") and not Path(self.params.model).exists():
            Path(self.params.model).touch()
            raise OSError("weights not there yet")
        self.loaded = self.params.model
        self.place = device

    def to(self, device):
        self.place = device

    def read(self, job):
        for path in job.input:
            yield from Path(path).read_text().splitlines()

    def name(self, item):
        return item

    def cost(self, item):
        return float(len(item))

    def tokens(self, item):
        return len(item)

    def batch_tokens(self, device):
        return 64

    def run(self, items):
        time.sleep(self.params.sleep_s)
        for item in items:
            if item == "bad":
                raise ValueError("this line is bad")
            if item == "die":
                os._exit(7)
        by = f".{os.getpid()}" if self.params.pid else ""
        return [f"{item.upper()}{self.params.suffix}.{self.loaded}{by}" for item in items]

    def write(self, job, results):
        print(f"writing {len(results)} results of {job.rule}")
        Path(job.output[0]).write_text("".join(f"{line}\n" for line in results))


if "snakemake" in globals():
    Textual.main(snakemake)  # noqa: F821
