"""A tool that costs nothing, but for what it takes to load: one item a job, from file to file."""

import time
from collections.abc import Iterator
from typing import ClassVar

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job


class Step(Tool):
    """Add the model's number to a text."""

    defaults: ClassVar = {"model": 0, "load_s": 0.0}
    devices = ("cuda", "cpu")

    def load(self, device: str) -> None:
        """Take as long as a model would."""
        time.sleep(float(self.params.load_s))

    def read(self, job: Job) -> Iterator[str]:
        """Yield the file's text."""
        with open(job.input[0]) as file:  # noqa: PTH123 - the quicker way, and cost counts
            yield file.read()

    def run(self, items: list[str]) -> list[str]:
        """Add a word."""
        return [f"{item} {self.params.model}" for item in items]

    def write(self, job: Job, results: list[str]) -> None:
        """Write the text."""
        with open(job.output[0], "w") as file:  # noqa: PTH123
            file.write(results[0])
