"""Tools that do next to nothing, and say how large their batches may be, or do not."""

from __future__ import annotations

from snakemake_executor_gpupool import Tool


class Silent(Tool):
    reload_on = ()
    devices = ("cpu",)
    reproducible = "always"
    pads = False

    def run(self, items: list[str]) -> list[str]:
        return [item.upper() for item in items]


class Bounded(Silent):
    max_batch_tokens = 50
