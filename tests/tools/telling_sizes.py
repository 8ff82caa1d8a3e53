"""A tool whose results say how many items were computed together."""

from __future__ import annotations

from snakemake_executor_gpupool import Tool


class Sizes(Tool):
    reload_on = ()
    devices = ("cpu",)
    reproducible = "always"  # a lie: sizes are what is looked at
    pads = False

    def run(self, items: list[str]) -> list[tuple[str, int]]:
        return [(item, len(items)) for item in items]


class Bounded(Sizes):
    max_batch_tokens = 50
