"""A tool whose `write` changes results in place, as some do to save memory."""

from pathlib import Path

import numpy as np

from snakemake_executor_gpupool import Tool


class InPlace(Tool):
    """Counts letters; doubles the counts as it writes them."""

    defaults = {"model": "plain", "size": 3}
    devices = ("cpu",)

    def read(self, job):
        yield from Path(job.input[0]).read_text().split()

    def run(self, items):
        # One array among few is large enough to travel beside its pickle.
        return [{"n": np.full(self.params.size, len(i)), "more": [np.ones(2)]} for i in items]

    def write(self, job, results):
        for result in results:
            result["n"] *= 2
            result["more"][0] += 1
            result["more"].append(None)
        lines = [f"{r['n'].max()} {r['more'][0].max():.0f} {len(r['more'])}" for r in results]
        Path(job.output[0]).write_text("\n".join(lines))
