"""A small model, and the files that a chain of it reads and writes."""

import numpy as np

from snakemake_executor_gpupool import Tool

WIDTH = 256


class Layer(Tool):
    """One layer with a bend: ``model`` seeds its weights; a row of its input is an item."""

    defaults = {"model": 0}
    devices = ("cpu",)

    def load(self, device):
        rng = np.random.default_rng(int(self.params.model))
        self.weights = rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5

    def read(self, job):
        yield from [np.load(job.input[0])]

    def tokens(self, item):
        return len(item)

    def cost(self, item):
        return float(len(item))

    def batch_tokens(self, device):
        return 1024

    def run(self, items):
        lengths = np.cumsum([len(item) for item in items])[:-1]
        return np.split(np.tanh(np.concatenate(items) @ self.weights), lengths)

    def write(self, job, results):
        np.save(job.output[0], results[0])
