"""A small torch model, and the files that a chain of it reads and writes."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job

WIDTH = 256


class Layer(Tool):
    """One layer with a bend; ``model`` seeds its weights, ``depth`` says how often to apply it.

    An item is a file's float32 array of shape (rows, WIDTH), as raw bytes; its rows are its
    tokens.
    """

    defaults: ClassVar = {"model": 0, "depth": 1}
    devices = ("cuda", "cpu")
    pads = False

    def load(self, device: str) -> None:
        """Draw the weights."""
        import torch

        torch.manual_seed(int(self.params.model))
        self.layer = torch.nn.Linear(WIDTH, WIDTH).to(device)

    def read(self, job: Job) -> Iterator[Any]:
        """Yield the file's array."""
        yield np.fromfile(job.input[0], np.float32).reshape(-1, WIDTH)

    def tokens(self, item: Any) -> int:
        """Return the number of rows."""
        return len(item)

    def cost(self, item: Any) -> float:
        """Return the number of rows, too."""
        return float(len(item))

    def batch_tokens(self, device: str) -> int:
        """Return the most rows of a micro-batch."""
        return 1024

    def run(self, items: list[Any]) -> list[Any]:
        """Apply the layer to all rows at once."""
        import torch

        ends = np.cumsum([len(item) for item in items])[:-1]
        rows = torch.from_numpy(np.concatenate(items)).to(self.device)
        with torch.inference_mode():
            for _ in range(int(self.params.depth)):
                rows = torch.tanh(self.layer(rows))
        return np.split(rows.cpu().numpy(), ends)

    def write(self, job: Job, results: list[Any]) -> None:
        """Write an array like the one that was read."""
        results[0].tofile(job.output[0])
