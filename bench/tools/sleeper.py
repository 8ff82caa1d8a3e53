"""A tool whose work is to wait: an item says how long, and what to believe of it."""

import time
from typing import Any, NamedTuple

from snakemake_executor_gpupool.tool_api.tool import Tool


class Nap(NamedTuple):
    """One item: its number, its true seconds and those that the tool expects."""

    number: int
    seconds: float
    expected_s: float


class Sleeper(Tool):
    """Sleep for each item."""

    defaults = {"load_s": 0.0}  # noqa: RUF012 - a tool's defaults are not changed
    reload_on = ("load_s",)
    devices = ("cpu",)
    pads = False

    def load(self, device: str) -> None:
        """Take as long as a model would."""
        time.sleep(self.params.load_s)

    def cost(self, item: Nap) -> float:
        """Return what the item is believed to take."""
        return item.expected_s

    def tokens(self, item: Nap) -> int:
        """Return milliseconds."""
        return max(1, round(1e3 * item.expected_s))

    def batch_tokens(self, device: str) -> int:
        """Return the most milliseconds of a micro-batch."""
        return 200

    def run(self, items: list[Nap]) -> list[Any]:
        """Sleep."""
        for item in items:
            time.sleep(item.seconds)
        return [item.number for item in items]
