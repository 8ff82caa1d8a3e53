"""The same promises on a real card. Skipped, with the reason, where there is none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.devices.probe import memory_used_mib, probe
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from snakemake_executor_gpupool.tools.fasta import Record
from tests.acceptance.running import Finished, Workflow


def why_not() -> str:
    """Say why there is no card to test on; empty: there is one."""
    found = probe({})
    if not found.devices:
        return "no GPU: " + "; ".join(found.warnings)
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    done = subprocess.run(["python", "-c", code], check=False, capture_output=True)
    return "torch here cannot use the GPU" if done.returncode else ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a GPU")

PROTEINS = [Record(f"p{n}", "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"[: 8 + n]) for n in range(24)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeded checkpoints at the shape of ESM-2 8M."""
    return [
        write_seeded_checkpoint(str(tmp_path_factory.mktemp(f"w{seed}")), 6, 320, 20, seed)
        for seed in (1, 2)
    ]


def test_gpu_and_cpu_agree(checkpoints: list[str]) -> None:  # R5
    params = {"model": checkpoints[0]}
    with ToolPool(devices="all") as pool:
        on_gpu = pool.run("esm2-embed", PROTEINS, params)
    with ToolPool(devices="cpu:1") as pool:
        on_cpu = pool.run("esm2-embed", PROTEINS, params)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        for one, other in zip(np.atleast_1d(ours), np.atleast_1d(theirs), strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=2e-3)


EVICTION = """
rule all:
    input: "2.npz"

rule step:
    input: fasta="in.fasta", before=lambda w: [f"{int(w.n) - 1}.npz"] if int(w.n) else []
    output: "{n}.npz"
    resources: gpupool_tool="esm2-embed", device="cuda:0"
    params: model=lambda wildcards: MODELS[int(wildcards.n) % 2]
    shell: "gpupool run esm2-embed"
"""


def evict(tmp_path: Path, checkpoints: list[str], *arguments: str) -> Finished:
    fasta = "".join(f">{record.id}\n{record.sequence}\n" for record in PROTEINS)
    workflow = Workflow(tmp_path, f"MODELS = {checkpoints}\n{EVICTION}", {"in.fasta": fasta})
    environment = workflow.environment()
    done = subprocess.run(
        workflow.command("--executor", "gpupool", "--jobs", "9", *arguments),
        cwd=tmp_path,
        env={k: v for k, v in environment.items() if k != "CUDA_VISIBLE_DEVICES"},
        capture_output=True,
        text=True,
        check=False,
    )
    finished = Finished(tmp_path, done.returncode, done.stdout + done.stderr)
    assert finished.code == 0, finished.text
    return finished


def test_eviction_frees_the_card(tmp_path: Path, checkpoints: list[str]) -> None:  # D5 D8
    before_mib = memory_used_mib(probe({}).devices[0])
    done = evict(tmp_path, checkpoints)
    assert (done.summary["evictions"], done.summary["model_loads"]) == (2, 3)
    after_mib = memory_used_mib(probe({}).devices[0])
    assert before_mib is None or after_mib is None or after_mib <= before_mib + 256


def test_offload_keeps_the_process(tmp_path: Path, checkpoints: list[str]) -> None:  # D8
    done = evict(tmp_path, checkpoints, "--gpupool-offload-strategy", "cpu")
    assert (done.summary["offloads"], done.summary["model_loads"]) == (2, 2)


def test_models_share_a_card_as_far_as_measured_memory_allows(
    tmp_path: Path, checkpoints: list[str]
) -> None:  # D9
    packing = "--gpupool-allow-multiple-per-device"
    first = evict(tmp_path, checkpoints, packing)
    assert (first.summary["evictions"], first.summary["model_loads"]) == (0, 2)
    path = tmp_path / ".snakemake/profile.json"
    profile = json.loads(path.read_text())
    card = probe({}).devices[0]
    assert card.memory_mib
    for figures in profile["entries"].values():
        assert 0 < figures["weights_mib"] <= figures["peak_mib"] < card.memory_mib
        figures["peak_mib"] = int(0.6 * card.memory_mib)
    path.write_text(json.dumps(profile))
    second = evict(tmp_path, checkpoints, packing, "--forceall")
    assert second.summary["evictions"] == 2, "two of these do not fit on one card"
