"""A tool that costs nothing and has as many models as there are values of its param."""

from typing import ClassVar

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job


class Variants(Tool):
    """Write each job's number and its model into its output."""

    defaults: ClassVar[dict[str, int]] = {"model": 0}

    def read(self, job: Job) -> list[str]:
        """Yield the job's number."""
        return [job.wildcards.number]

    def run(self, items: list[str]) -> list[str]:
        """Return the items with the model's number."""
        return [f"{item} {self.params.model}" for item in items]

    def write(self, job: Job, results: list[str]) -> None:
        """Write the result."""
        with open(job.output[0], "w") as file:  # noqa: PTH123 - the quicker way, and cost counts
            file.write(f"{results[0]}\n")
