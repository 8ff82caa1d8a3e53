"""esm2-embed, whose numbers do not depend on what shares a batch, down to the last bit."""

import time

from snakemake_executor_gpupool.tools.esm2 import Esm2Embed


class SteadyEsm2(Esm2Embed):
    """Computes a micro-batch one sequence at a time, and moves slowly enough to be met there."""

    def run(self, items):
        return [result for item in items for result in super(SteadyEsm2, self).run([item])]

    def to(self, device):
        time.sleep(0.3)
        super().to(device)
