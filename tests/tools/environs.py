"""A tool that needs what only its rule's own environment has: a package and a program."""

import os
import subprocess
import sys
from pathlib import Path

from snakemake_executor_gpupool import Tool


def program():
    """What the environment's own program says, found as a shell would."""
    return subprocess.run(["onlyhere"], capture_output=True, text=True, check=True).stdout.strip()


class Environs(Tool):
    """Says of each word in which environment it was read, computed and written."""

    defaults = {"package": "onlyhere"}
    reload_on = ("package",)

    def load(self, device):
        self.package = __import__(self.params.package)

    def place(self):
        version = ".".join(map(str, sys.version_info[:2]))
        hook = os.environ.get("HOOK", "no hook")
        prefix = Path(os.environ.get("CONDA_PREFIX", "none")).name
        return f"{version} {Path(sys.prefix).name} {prefix} {hook} {program()}"

    def read(self, job):
        for word in Path(job.input[0]).read_text().split():
            yield f"{word}: read in {self.place()}"

    def run(self, items):
        made_in = f"{self.place()} {self.package.VERSION}"
        return [f"{item}, computed in {made_in}\n" for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("".join([*results, f"written in {self.place()}\n"]))


Environs.main(snakemake)  # noqa: F821
