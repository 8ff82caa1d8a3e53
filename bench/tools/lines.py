"""A tool whose items are lines and whose model does nothing: what is left is what an item costs."""

from collections.abc import Iterator

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job


class Lines(Tool):
    """Return how long each line is."""

    reload_on = ()
    devices = ("cpu",)
    pads = False

    def read(self, job: Job) -> Iterator[str]:
        """Yield the lines of a file."""
        with open(job.input[0]) as file:  # noqa: PTH123 - the quicker way, and cost counts
            for line in file:
                yield line.rstrip("\n")

    def run(self, items: list[str]) -> list[int]:
        """Return the lengths."""
        return [len(item) for item in items]

    def write(self, job: Job, results: list[int]) -> None:
        """Write the sum of the lengths, and how many there are."""
        with open(job.output[0], "w") as file:  # noqa: PTH123
            file.write(f"{len(results)} {sum(results)}\n")
