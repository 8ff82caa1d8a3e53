"""A simulated device: a batch takes as long as asked, and its results are as large as asked."""

import time
from typing import Any

import numpy as np

from snakemake_executor_gpupool.tool_api.tool import Tool


class Naps(Tool):
    """Sleep for each batch, and note on a clock that all processes share from when until when."""

    defaults = {"batch_s": 0.005, "result_bytes": 0, "log": ""}  # noqa: RUF012 - not changed
    reload_on = ("log",)
    devices = ("cpu",)
    pads = False

    def batch_tokens(self, device: str) -> int:
        """Return how many items a batch has."""
        return 16

    def run(self, items: list[Any]) -> list[Any]:
        """Sleep; a result is an array, or a number."""
        started_s = time.monotonic()
        size = int(self.params.result_bytes) // (4 * len(items))
        results: list[Any] = items
        if size:
            results = [np.empty(size, np.float32) for _ in items]
        time.sleep(float(self.params.batch_s))
        with open(f"{self.params.log}.{id(self)}", "a") as file:  # noqa: PTH123 - a line a batch
            file.write(f"{started_s} {time.monotonic()}\n")
        return results

    def read(self, job: Any) -> list[int]:
        """Return so many numbers from a first one on, as the input says."""
        with open(job.input[0]) as file:  # noqa: PTH123
            first, count = map(int, file.read().split())
        return list(range(first, first + count))

    def write(self, job: Any, results: list[Any]) -> None:
        """Write all arrays into one file."""
        np.savez(job.output[0], *results)
