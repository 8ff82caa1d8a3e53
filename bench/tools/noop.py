"""A tool that costs nothing: one item a job, returned as it came."""

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job


class Noop(Tool):
    """Write each job's number into its output."""

    reload_on = ()

    def read(self, job: Job) -> list[str]:
        """Yield the job's number."""
        return [job.wildcards.number]

    def run(self, items: list[str]) -> list[str]:
        """Return the items."""
        return items

    def write(self, job: Job, results: list[str]) -> None:
        """Write the number."""
        with open(job.output[0], "w") as file:  # noqa: PTH123 - the quicker way, and cost counts
            file.write(f"{results[0]}\n")
