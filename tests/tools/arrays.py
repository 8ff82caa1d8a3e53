"""A light tool whose items and results are arrays."""

from snakemake_executor_gpupool import Tool


class Doubled(Tool):
    """Doubles arrays."""

    reload_on = ()

    def tokens(self, item):
        return len(item)

    def batch_tokens(self, device):
        return 10_000_000

    def run(self, items):
        return [item * 2 for item in items]
