"""Chains of short requests through real tools, merged and not (M1-M5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.acceptance.running import Finished, Workflow

TOOLS = """
from pathlib import Path

import numpy as np

from snakemake_executor_gpupool import Tool


class Vectors(Tool):
    def read(self, job):
        with np.load(job.input[0]) as arrays:
            yield from ((name, arrays[name]) for name in sorted(arrays.files))

    def name(self, item):
        return item[0]

    def batch_tokens(self, device):
        return 32


class Shrink(Vectors):
    \"\"\"A fixed random projection and a bend: a small real model.\"\"\"

    defaults = {"model": 1, "die": ""}

    def load(self, device):
        import torch

        torch.manual_seed(int(self.params.model))
        self.layer = torch.nn.Linear(64, 16)

    def run(self, items):
        import os, signal, torch

        if self.params.die and Path(self.params.die).exists():
            Path(self.params.die).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            stacked = torch.stack([torch.as_tensor(v, dtype=torch.float32) for _, v in items])
            return list(torch.tanh(self.layer(stacked)).numpy())

    def write(self, job, results):
        np.savez(job.output[0], **dict(zip(job.item_names, results)))


class Norm(Vectors):
    defaults = {"model": "l2", "digits": 4}

    def run(self, items):
        return [float(np.linalg.norm(vector)) for _, vector in items]

    def write(self, job, results):
        lines = [f"{n}\\t{r:.{job.params.digits}f}" for n, r in zip(job.item_names, results)]
        Path(job.output[0]).write_text("\\n".join(lines) + "\\n")
"""

SNAKEFILE = """
SAMPLES = [f"s{i}" for i in range(6)] + ["long"]

rule all:
    input: expand("norm/{s}.tsv", s=SAMPLES)

rule embed:
    input: "in/{s}.fa"
    output: "emb/{s}.npz"
    log: "logs/{s}.log"
    params: model="weights/esm2_tiny.pt", sample=lambda wildcards: wildcards.s
    resources: gpupool_tool="esm2-embed"
    shell: "gpupool run esm2-embed"

rule shrink:
    input: "emb/{s}.npz"
    output: temp("small/{s}.npz")
    params: die="kill"
    resources: gpupool_tool="chain_tools.py:Shrink"
    shell: "false"

rule norm:
    input: "small/{s}.npz"
    output: "norm/{s}.tsv"
    params: digits=lambda wildcards, input: 4 if "long" not in input[0] else 3
    resources: gpupool_tool="chain_tools.py:Norm"
    shell: "false"
"""

SHORT = {
    f"in/s{i}.fa": f">p{i}\nMKTAYIAKQR{'ACDEFGHIKL'[: i + 1]}\n>q\nMADQLTEEQI\n" for i in range(6)
}
LONG = {"in/long.fa": f">long\n{'MKTAYIAKQRACDEFGHIKL' * 10}\n"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A seeded ESM-2 of two layers."""
    return write_seeded_checkpoint(str(tmp_path_factory.mktemp("weights")), 2, 64, 4)


def run(directory: Path, checkpoint: str, *arguments: str, kill: bool = False) -> Finished:
    files = {**SHORT, **LONG, "chain_tools.py": TOOLS}
    if kill:
        files["kill"] = ""
    snakefile = SNAKEFILE.replace("weights/esm2_tiny.pt", checkpoint)
    return Workflow(directory, snakefile, files).run("--gpupool-devices", "cpu:1", *arguments)


def numbers(finished: Finished) -> dict[str, np.ndarray]:
    """Every number that a run wrote, by file and name."""
    found = {}
    for path in sorted(finished.directory.glob("emb/*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.name}:{name}": arrays[name] for name in arrays.files}
    for path in sorted(finished.directory.glob("norm/*.tsv")):
        pairs = [line.split("\t") for line in path.read_text().splitlines()]
        found |= {f"{path.name}:{name}": np.array(float(value)) for name, value in pairs}
    return found


def test_chains_of_three_real_tools_merged_and_not(tmp_path: Path, checkpoint: str) -> None:
    # M1 M2 M5 W4
    apart = run(tmp_path / "apart", checkpoint, "--gpupool-merge", "off")
    merged = run(tmp_path / "merged", checkpoint)
    killed = run(tmp_path / "killed", checkpoint, kill=True)
    for finished in (apart, merged, killed):
        assert finished.code == 0, finished.text
        assert finished.summary["jobs_served"] == 21
        assert not (finished.directory / "small").exists() or not list(
            (finished.directory / "small").iterdir()
        )
        assert "computed by" in finished.read("logs/s0.log")
    expected = numbers(apart)
    assert len(expected) == 2 * 13
    for finished in (merged, killed):
        found = numbers(finished)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=2e-4, err_msg=name)

    # Not merged: nothing of it anywhere.
    assert apart.summary["chains_merged"] == apart.summary["dispatches_saved"] == 0
    assert not apart.events("stage_done") and "dispatches saved" not in apart.text

    # Merged: the six short rows, and what follows the long one's first stage.
    assert merged.summary["chains_merged"] == 7
    assert merged.summary["dispatches_saved"] == 6 * 2 + 1
    assert merged.summary["guesses_unclaimed"] == 0
    assert "13 dispatches saved" in merged.text
    assert merged.summary["items"] == apart.summary["items"]
    assert merged.summary["items_unique"] == apart.summary["items_unique"]
    assert len(merged.events("batch_sent")) < len(apart.events("batch_sent"))

    # Killed between the first stage and the second: the first stands, the others ran later.
    assert killed.summary["worker_crashes"] == 1
    firsts = [e["job"] for e in killed.events("stage_done") if e["stage"] == 0]
    assert sum(job.startswith("rule embed") for job in firsts) >= 1
    done = [event["job"] for event in killed.events("job_done")]
    assert len(done) == len(set(done)) == 21
    assert not list(killed.directory.glob("**/.gpupool-*"))


def test_equal_micro_batches_give_equal_bits(tmp_path: Path, checkpoint: str) -> None:  # M5
    """One sample: in both ways each model gets its two items in one micro-batch."""
    snakefile = SNAKEFILE.replace("weights/esm2_tiny.pt", checkpoint)
    snakefile = snakefile.replace('range(6)] + ["long"]', "range(1)]").replace(": 4 if", ": 17 if")
    files = {**SHORT, "chain_tools.py": TOOLS}
    found = {}
    for merge, saved in (("auto", 2), ("off", 0)):
        workflow = Workflow(tmp_path / merge, snakefile, files)
        done = workflow.run("--gpupool-devices", "cpu:1", "--gpupool-merge", merge)
        assert done.code == 0, done.text
        assert done.summary["dispatches_saved"] == saved
        found[merge] = {name: values.tobytes() for name, values in numbers(done).items()}
        assert max(map(len, done.read("norm/s0.tsv").split())) > 15, "all digits are compared"
    assert len(found["auto"]) == 4
    assert found["auto"] == found["off"]


SAME_FILE = """
rule all:
    input: expand("out/{{i}}.txt", i=range(3))

rule first:
    input: "in/{{i}}.txt"
    output: "mid/{{i}}.txt"
    {special}
    params: model="m1"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule second:
    input: "mid/{{i}}.txt"
    output: "out/{{i}}.txt"
    {group}
    params: model="m2", suffix={suffix}
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"
"""
#: A params function that needs the first rule's output, as workflows have them.
READS_OUTPUT = "lambda wildcards, input: open(input[0]).read()[:1]"


@pytest.mark.parametrize(
    ("special", "suffix", "merged"),
    [
        ("", "'x'", 3),
        ("", READS_OUTPUT, 0),
        ("", "lambda wildcards, input: 'new' if os.path.exists(input[0]) else 'old'", 3),
        ("shadow: 'minimal'", "'x'", 0),
        ("group: 'rows'", "'x'", 3),
    ],
)
def test_a_wrong_guess_costs_time_and_nothing_else(
    tmp_path: Path, special: str, suffix: str, merged: int
) -> None:  # M1 M5
    files = {f"in/{i}.txt": f"word{i}\n" for i in range(3)}
    group = special if "group" in special else ""
    snakefile = "import os\n" + SAME_FILE.format(special=special, group=group, suffix=suffix)
    done = Workflow(tmp_path, snakefile, files).run("--gpupool-devices", "cpu:1")
    assert done.code == 0, done.text
    wanted = {"'x'": "x", READS_OUTPUT: "W"}.get(suffix, "new")
    for number in range(3):
        assert done.read(f"out/{number}.txt").strip() == f"WORD{number}.M1{wanted}.m2"
    assert done.summary["chains_merged"] == merged
    wrong = merged if wanted == "new" else 0
    assert done.summary["guesses_unclaimed"] == wrong
    assert done.summary["dispatches_saved"] == merged - wrong
