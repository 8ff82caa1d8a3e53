"""A tool that costs nothing, but for what it takes to load: one item a job, from file to file."""

import time
from collections.abc import Iterator
from typing import ClassVar

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job


class Step(Tool):
    """Add the model's number to a file's content."""

    defaults: ClassVar = {"model": 0, "load_s": 0.0}
    reload_on = ("model", "load_s")
    devices = ("cuda", "cpu")

    def load(self, device: str) -> None:
        """Take as long as a model would."""
        time.sleep(float(self.params.load_s))

    def read(self, job: Job) -> Iterator[bytes]:
        """Yield the file's content."""
        with open(job.input[0], "rb") as file:  # noqa: PTH123 - the quicker way, and cost counts
            yield file.read()

    def run(self, items: list[bytes]) -> list[bytes]:
        """Add it."""
        return [item + str(self.params.model).encode() for item in items]

    def write(self, job: Job, results: list[bytes]) -> None:
        """Write the content."""
        with open(job.output[0], "wb") as file:  # noqa: PTH123
            file.write(results[0])
