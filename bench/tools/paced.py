"""A tool that takes the time that its input says: a line is an item, its name and milliseconds."""

import time
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool


class Paced(Tool):
    """Sleep for each item, and a little for each micro-batch."""

    defaults = {"load_s": 0.0, "model": "a"}  # noqa: RUF012 - a tool's defaults are not changed
    reload_on = ("load_s", "model")
    devices = ("cuda", "cpu")
    pads = False

    def load(self, device: str) -> None:
        """Take as long as a model would."""
        time.sleep(self.params.load_s)

    def read(self, job: Any) -> Any:
        """Read all files."""
        for path in job.input:
            yield from Path(path).read_text().splitlines()

    def cost(self, item: str) -> float:
        """Return milliseconds."""
        return float(item.split()[1])

    def tokens(self, item: str) -> int:
        """Return milliseconds."""
        return round(self.cost(item))

    def batch_tokens(self, device: str) -> int:
        """Return the most milliseconds of a micro-batch."""
        return 400

    def run(self, items: list[str]) -> list[str]:
        """Sleep."""
        time.sleep(0.01 + sum(map(self.cost, items)) / 1000)
        return items

    def write(self, job: Any, results: list[str]) -> None:
        """Write the items, for the next rule."""
        Path(job.output[0]).write_text("".join(f"{line}\n" for line in results))
