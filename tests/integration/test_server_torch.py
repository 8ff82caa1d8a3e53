"""Tools on torch through a server: the built-in one as installed, and one of a user's own."""

from __future__ import annotations

import numpy as np

from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.integration.esm2_cases import TINY, proteins, write_fasta
from tests.serving import Workplace

OWN = """
import numpy as np
import torch
from snakemake_executor_gpupool import Tool


class Layer(Tool):
    devices = ("cpu",)
    defaults = {"model": 0}
    reload_on = ("model",)

    def read(self, job):
        yield np.loadtxt(job.input[0], dtype=np.float32, ndmin=1)

    def load(self, device):
        torch.manual_seed(int(self.params.model))
        self.layer = torch.nn.Linear(3, 2)

    def run(self, items):
        with torch.inference_mode():
            return [self.layer(torch.from_numpy(item)).numpy() for item in items]

    def write(self, job, results):
        np.savetxt(job.output[0], results[0])
"""


def test_esm2_embed_stays_loaded_and_computes_what_it_does_cold(work: Workplace) -> None:  # G3
    place = work.directory
    checkpoint = write_seeded_checkpoint(str(place), *TINY, seed=7)
    for number in range(3):
        write_fasta(place / f"{number}.fasta", proteins((5, 12, 30), seed=number))
    words = "--param", f"model={checkpoint}", "--device", "cpu"

    def embed(number: int, name: str, server: str) -> np.lib.npyio.NpzFile:
        files = "--input", f"fasta={number}.fasta", "--output", f"{name}.npz"
        done = work.gpupool("run", "esm2-embed", *files, *words, "--server", server)
        assert (done.returncode, done.stderr) == (0, "")
        return np.load(place / f"{name}.npz")

    for number in range(3):
        warm = embed(number, f"warm{number}", "auto")
        if number:
            continue  # a cold one takes seconds
        cold = embed(number, "cold", "off")
        assert set(warm.files) == set(cold.files)
        for key in warm.files:
            np.testing.assert_allclose(warm[key], cold[key], atol=1e-5)
    status = work.status()
    assert (status["loads"], status["jobs"]["done"]) == (1, 3)


def test_a_tool_of_one_s_own_on_torch(work: Workplace) -> None:
    (work.directory / "layer.py").write_text(OWN)
    (work.directory / "in.txt").write_text("1 2 3\n")
    files = "--input", "in.txt", "--output"
    outputs = []
    for name, server in (("cold", "off"), ("first", "auto"), ("second", "on")):
        done = work.gpupool("run", "layer.py", *files, name, "--server", server)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append((work.directory / name).read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert work.status()["loads"] == 1
    # Weights that torch draws differ with the model, and are not the same worker's.
    done = work.gpupool("run", "layer.py", *files, "other", "--param", "model=1", "--server", "on")
    assert done.returncode == 0 and (work.directory / "other").read_bytes() != outputs[0]
