"""Reproducible runs of the built-in tools: the same bits in any order, company and place (R5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.tool_api.reproducible import NUMERIC_VARIABLES, BatchShape
from snakemake_executor_gpupool.tools.esm2_forward import ROTARY_BLOCK, Encoder
from snakemake_executor_gpupool.tools.sentence import SentenceEmbed
from snakemake_executor_gpupool.tools.sentence_shape import _pad, _set_kernel
from tests.integration import esm2_cases, esmfold_cases
from tests.integration.company import bits

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "tool_permutations.py"
#: Rounds of each case: each selects up to nine items, by chance, of one of two kinds of jobs.
ROUNDS = {
    "esm2-fp32": 100, "esm2-bf16": 20, "esm2-fp16": 8, "esm2-contacts": 20, "sentence-fp32": 40,
    "sentence-bf16": 10, "esmfold-fp32": 20, "esmfold-fp16": 12, "head": 400,
}  # fmt: skip
#: Cases whose bits change otherwise.
CHANGING = ("esm2-contacts", "sentence-fp32", "esmfold-fp32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def permuted(models: Path, *, reproducible: bool, **rounds: int) -> dict[str, Any]:
    """What random selections in random order come to for each case, in a process of their own."""
    mode = Mode(is_reproducible=reproducible)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(models), *(f"{c}={n}" for c, n in rounds.items())],
        env={**os.environ, **NUMERIC_VARIABLES, **mode.variables()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {found["case"]: found for found in lines}


@pytest.fixture(scope="module")
def reproducible(models: Path) -> dict[str, Any]:
    return permuted(models, reproducible=True, **ROUNDS)


@pytest.fixture(scope="module")
def default(models: Path) -> dict[str, Any]:
    return permuted(models, reproducible=False, **dict.fromkeys(CHANGING, 25))


@pytest.mark.parametrize("case", ROUNDS)
def test_no_bit_changes_and_results_are_right(
    case: str, reproducible: dict[str, Any]
) -> None:  # R5
    found = reproducible[case]
    assert found["error"] is None
    assert found["results"] > 2 * ROUNDS[case]
    assert found["differing"] == 0
    assert found["farthest"] < 0.8


@pytest.mark.parametrize("case", CHANGING)
def test_in_default_mode_bits_do_change(case: str, default: dict[str, Any]) -> None:
    """So the test above can fail."""
    assert default[case]["error"] is None
    assert default[case]["differing"] > 0


class TestEsm2:
    def test_pads_to_the_shape(self, models: Path) -> None:
        tool = esm2_cases.loaded(esm2_model(models))
        tool.batch_shape = BatchShape(2, 48)
        assert tool._tokens(esm2_cases.proteins([46, 5])).shape == (2, 48)
        assert tool._tokens(esm2_cases.proteins([3, 5])).shape == (2, 48)

    def test_full_rows_have_a_mask_too(self, models: Path, monkeypatch) -> None:
        masks = []
        attend = torch.nn.functional.scaled_dot_product_attention

        def seen(query, key, value, attn_mask=None):
            masks.append(attn_mask is not None)
            return attend(query, key, value, attn_mask=attn_mask)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
        tool = esm2_cases.loaded(esm2_model(models))
        tool.run(esm2_cases.proteins([6, 9]))
        assert masks and not any(masks)
        tool.batch_shape = BatchShape(2, 8)
        masks.clear()
        tool.run(esm2_cases.proteins([6, 6]))
        assert masks and all(masks)

    def test_angles_do_not_depend_on_which_lengths_came_before(self, models: Path) -> None:
        tool = esm2_cases.loaded(esm2_model(models))
        short, long = (Encoder(tool._encoder.model) for _ in range(2))
        whole = long._cos_sin(2 * ROTARY_BLOCK + 5)
        for length in (3, 64, ROTARY_BLOCK, ROTARY_BLOCK + 1):
            for one, other in zip(short._cos_sin(length), whole, strict=True):
                assert len(one) == length and torch.equal(one, other[:length])

    def test_a_damaged_model_names_each_item_once(self, models: Path) -> None:
        tool = esm2_cases.loaded(esm2_model(models))
        with torch.no_grad():
            tool._encoder.model.emb_layer_norm_after.bias[3] = float("nan")
        items = esm2_cases.proteins([4, 5])
        tool.batch_shape = BatchShape(5, 8)
        with pytest.raises(InputError, match=r"of p0, p1: "):
            tool.run([*items, *items, items[0]])


def esm2_model(models: Path) -> Path:
    place = models / "esm2"
    if not place.exists():
        esm2_cases.write_hugging_face(place, (2, 320, 20), rounded=True)
    return place


class TestSentences:
    class Tokenizer:
        padding_side, pad_token_id, pad_token_type_id = "right", 7, 3

    def features(self) -> dict[str, Any]:
        ids = torch.tensor([[1, 2], [4, 7]])
        mask = torch.tensor([[1, 1], [1, 0]])
        return {"input_ids": ids, "attention_mask": mask, "modality": "text"}

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_pads_on_the_tokenizers_side(self, side: str) -> None:
        tokenizer, features = self.Tokenizer(), self.features()
        tokenizer.padding_side = side
        _pad(features, 3, tokenizer)
        ids, mask = features["input_ids"].tolist(), features["attention_mask"].tolist()
        if side == "left":
            assert (ids, mask) == ([[7, 1, 2], [7, 4, 7]], [[0, 1, 1], [0, 1, 0]])
        else:
            assert (ids, mask) == ([[1, 2, 7], [4, 7, 7]], [[1, 1, 0], [1, 0, 0]])
        assert features["modality"] == "text"

    @pytest.mark.parametrize(
        ("more", "tokens", "said"),
        [
            ({"position_ids": torch.zeros(2, 2)}, 3, "position_ids of 2 tokens"),
            ({}, 1, "input_ids of 2 tokens cannot be padded to 1"),
            ({"input_ids": torch.tensor([1, 2, 3])}, 3, "does not pad texts"),
        ],
    )
    def test_what_cannot_be_padded_is_refused(self, more, tokens, said) -> None:
        with pytest.raises(InputError, match=said):
            _pad({**self.features(), **more}, tokens, self.Tokenizer())

    def test_only_kernels_that_see_whole_rows(self) -> None:
        class Transformer:
            def __init__(self, name):
                self.auto_model, self.config, self._attn_implementation = self, self, name

            def set_attn_implementation(self, name):
                self._attn_implementation = name

        for given, used in (("flash_attention_2", "eager"), ("sdpa", "sdpa"), ("eager", "eager")):
            transformer = Transformer(given)
            _set_kernel(transformer)
            assert transformer._attn_implementation == used

    def test_a_rung_never_cuts_a_text_nor_exceeds_the_model(self) -> None:
        from snakemake_executor_gpupool.tools.texts import Text
        from tests.tools.tool_permutations import sentence

        model = sentence(Path(), "fp32").params[0]["model"]
        tool = SentenceEmbed({"model": model, "max_tokens": 30, "prompt": "a b c "})
        before = tool.rung(Text("x", "word " * 5))
        tool.load("cpu")
        rungs = [tool.rung(Text("x", "word " * count)) for count in (1, 3, 4, 20, 400)]
        assert rungs == [8, 8, 16, 30, 30] and before == 16
        # Tokens, not bytes: a long text of few tokens, a short one of many.
        assert tool.rung(Text("x", "international")) == 8
        assert tool.rung(Text("x", "小猫" * 4)) == 16


class TestEsmFold:
    def test_free_memory_does_not_tell(self, models: Path, monkeypatch) -> None:
        model = models / "esmfold"
        tool = esmfold_cases.loaded(esmfold_cases.write_model(model))
        sizes = []

        def full(items, options, chunk_size):
            sizes.append(chunk_size)
            raise MemoryError

        monkeypatch.setattr(tool, "_fold", full)
        for mode in (Mode(), Mode(is_reproducible=True)):
            for name, value in mode.variables().items():
                monkeypatch.setenv(name, value)
            with pytest.raises(MemoryError):
                tool.run(esmfold_cases.proteins([16]))
        assert sizes == [8, 4, 8]


def test_a_chain_of_tools_served_and_cold(models: Path, tmp_path: Path) -> None:
    """From FASTA over embeddings to scores: the same files, whatever ran beside them."""
    rng = np.random.default_rng(1)
    np.savez(models / "head.npz", weight=rng.normal(size=(3, 320)))
    params = {"esm2-embed": {"model": str(esm2_model(models))},
              "linear-head": {"model": str(models / "head.npz")}}  # fmt: skip
    records = esm2_cases.proteins([5, 30, 62, 90, 14, 31])
    fasta = [
        str(esm2_cases.write_fasta(tmp_path / f"{i}.fasta", records[i : i + 3])) for i in range(4)
    ]
    served = [chain(i, tmp_path / "served") for i in range(4)]
    with ToolPool(devices="cpu:2", reproducible=True) as pool:
        sequences = [(record.id, record.sequence) for record in records]
        together = pool.run("esm2-embed", sequences[::-1], params["esm2-embed"])[::-1]
        for source, (vectors, scores) in zip(fasta, served, strict=True):
            run_job(pool, "esm2-embed", source, vectors, params)
            run_job(pool, "linear-head", vectors, scores, params)
    alone = chain(2, tmp_path / "cold")
    for tool, source, target in (
        ("esm2-embed", fasta[2], alone[0]),
        ("linear-head", alone[0], alone[1]),
    ):
        command = [str(Path(sys.executable).with_name("gpupool")), "run", tool, "--reproducible",
                   "--input", source, "--output", target,
                   "--param", f"model={params[tool]['model']}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for ours, theirs in zip(served[2], alone, strict=True):
        assert Path(ours).read_bytes() == Path(theirs).read_bytes()
    with np.load(served[0][0]) as file:
        for number in range(3):
            assert file[f"p{number}"].tobytes() == bits(together[number])["layer2"]


def chain(number: int, directory: Path) -> tuple[str, str]:
    directory.mkdir(exist_ok=True)
    return str(directory / f"{number}.npz"), str(directory / f"{number}.tsv")


def run_job(pool: ToolPool, tool: str, source: str, target: str, params: dict[str, Any]) -> None:
    pool.run_job(tool, input=[source], output=[target], params=params[tool])
