"""linear-head against torch's own linear layer, and on files that are wrong."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from snakemake_executor_gpupool.frontends.commandline.main import main
from snakemake_executor_gpupool.tool_api.values import InputError, Job, Named
from snakemake_executor_gpupool.tools.arrays import write_arrays
from snakemake_executor_gpupool.tools.linear_head import Embedding, LinearHead
from snakemake_executor_gpupool.tools.linear_head_weights import read_head
from snakemake_executor_gpupool.worker.cold import run_cold

CLASSES = ["cold", "warm", "hot"]
IDS = [f"p{i}" for i in range(40)]


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(4)
    return torch.nn.Linear(16, 3).requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(2).normal(size=(len(IDS), 16)).astype(np.float32)


@pytest.fixture
def weights(layer, tmp_path):
    path = str(tmp_path / "head.npz")
    np.savez(path, weight=layer.weight.numpy(), bias=layer.bias.numpy(), classes=CLASSES)
    return path


def job_of(embeddings, scores, **params):
    return Job(
        rule="classify",
        input=Named.from_pairs([("embeddings", str(embeddings))]),
        output=Named.from_pairs([("scores", str(scores))]),
        params=params,
    )


class TestScores:
    @pytest.mark.parametrize(
        ("activation", "function"),
        [("softmax", lambda x: x.softmax(1)), ("sigmoid", torch.sigmoid), ("linear", lambda x: x)],
    )
    @pytest.mark.parametrize("suffixes", [("npz", "tsv"), ("parquet", "parquet")])
    def test_are_those_of_torch(
        self, tmp_path, layer, vectors, weights, activation, function, suffixes
    ):
        embeddings, scores = (tmp_path / f"x.{suffixes[0]}", tmp_path / f"scores.{suffixes[1]}")
        write_arrays(str(embeddings), IDS, [{"layer6": vector} for vector in vectors])
        run_cold(LinearHead, job_of(embeddings, scores, model=weights, activation=activation))
        table = pd.read_csv(scores, sep="\t") if suffixes[1] == "tsv" else pd.read_parquet(scores)
        assert list(table.columns) == ["id", *CLASSES, "label"]
        assert table["id"].tolist() == IDS
        expected = function(layer(torch.from_numpy(vectors))).numpy()
        assert np.abs(table[CLASSES].to_numpy() - expected).max() <= 2e-6
        assert table["label"].tolist() == [CLASSES[i] for i in expected.argmax(1)]
        assert table["label"].nunique() == 3

    def test_company_changes_no_bit(self, weights, vectors):  # R5
        tool = LinearHead({"model": weights})
        tool.load("cpu")
        items = [Embedding(name, vector) for name, vector in zip(IDS, vectors, strict=True)]
        for item, together in zip(items, tool.run(items), strict=True):
            assert tool.run([item])[0].scores.tobytes() == together.scores.tobytes()

    def test_huge_outputs_do_not_overflow(self, tmp_path):
        np.savez(tmp_path / "h.npz", weight=[[1e4, 0], [0, 1e4]])
        for activation in ("softmax", "sigmoid"):
            tool = LinearHead({"model": str(tmp_path / "h.npz"), "activation": activation})
            tool.load("cpu")
            (score,) = tool.run([Embedding("x", np.array([1, -1], np.float32))])
            assert score.scores.tolist() == [1, 0]

    def test_one_of_several_arrays(self, tmp_path, weights, vectors):
        arrays = [{"layer3": vector * 0, "layer6": vector} for vector in vectors]
        for suffix in ("npz", "parquet"):
            write_arrays(str(tmp_path / f"x.{suffix}"), IDS, arrays)
            tool = LinearHead({"model": weights, "array": "layer6"})
            read = list(tool.read(job_of(tmp_path / f"x.{suffix}", "o.tsv")))
            assert [item.id for item in read] == IDS
            assert np.array_equal(np.stack([item.vector for item in read]), vectors)

    def test_another_width(self, weights):
        tool = LinearHead({"model": weights})
        tool.load("cpu")
        with pytest.raises(InputError, match=r"'a' has 4 dimensions; .*head\.npz takes 16"):
            tool.run([Embedding("a", np.zeros(4, np.float32))])


def test_plain_vectors_are_items():  # T5
    tool = LinearHead({"model": "h.npz"})
    for given, name in (([1, 2], ""), (np.ones(2), ""), (("a", [1, 2]), "a")):
        item = tool.item(given)
        assert item.id == name
        assert item.vector.dtype == np.float32
        assert item.vector.shape == (2,)
    for wrong, message in (
        ("text", "takes vectors or"),
        ([[1], [2]], r"'' has the shape \(2, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            tool.item(wrong)


def test_it_keeps_the_contract_of_tools(tmp_path, weights, vectors, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_arrays("x.npz", IDS, [{"layer6": vector} for vector in vectors])
    job = ("--input", "embeddings=x.npz", "--output", "scores=o.tsv", "--param", f"model={weights}")
    assert main(["check", "linear-head", *job, "--vary", "activation=linear"]) == 0, (
        capfd.readouterr()
    )


class TestWeights:
    def test_every_format(self, tmp_path, layer, weights):
        parts = {"weight": layer.weight.numpy(), "bias": layer.bias.numpy()}
        safe, pickled = str(tmp_path / "h.safetensors"), str(tmp_path / "h.pt")
        save_file(parts, safe, metadata={"classes": json.dumps(CLASSES)})
        torch.save({**layer.state_dict(), "classes": CLASSES}, pickled)
        for path in (weights, safe, pickled):
            head = read_head(path)
            assert np.array_equal(head.weight, parts["weight"])
            assert np.array_equal(head.bias, parts["bias"])
            assert head.classes == tuple(CLASSES)

    def test_what_may_be_left_out(self, tmp_path):
        np.savez(tmp_path / "h.npz", weight=np.ones((2, 3)))
        head = read_head(str(tmp_path / "h.npz"))
        assert head.bias.tolist() == [0, 0]
        assert head.classes == ("class0", "class1")

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"w": np.ones((2, 3))}, "has no 'weight'; it has w"),
            ({"weight": np.ones(3)}, r"weight has the shape \(3,\)"),
            ({"weight": np.ones((2, 3)), "bias": np.ones(3)}, r"bias has the shape \(3,\)"),
            ({"weight": np.ones((2, 3)), "classes": ["a"]}, r"classes has the shape \(1,\)"),
            ({"weight": np.ones((2, 3)), "classes": ["a", "a"]}, "must differ"),
            ({"weight": np.ones((2, 3)), "classes": ["a", "id"]}, "none be 'id'"),
            ({"weight": np.full((2, 3), np.nan)}, "not finite"),
        ],
    )
    def test_parts_that_do_not_fit(self, tmp_path, parts, message):
        np.savez(tmp_path / "h.npz", **parts)
        with pytest.raises(InputError, match=message):
            read_head(str(tmp_path / "h.npz"))

    @pytest.mark.parametrize("name", ["h.npz", "h.safetensors", "h.pt"])
    def test_no_weights_at_all(self, tmp_path, name):
        with pytest.raises(InputError, match="is not there: train the layer first"):
            read_head(str(tmp_path / name))
        (tmp_path / name).write_text("no such thing")
        with pytest.raises(InputError, match="is damaged, or no"):
            read_head(str(tmp_path / name))

    def test_a_pickle_is_not_run(self, tmp_path):
        torch.save({"weight": print}, tmp_path / "h.pt")
        with pytest.raises(InputError, match="is damaged, or no"):
            read_head(str(tmp_path / "h.pt"))

    def test_another_suffix(self):
        with pytest.raises(InputError, match=r"read from \.npz, \.safetensors, \.pt"):
            read_head("h.onnx")


class TestReading:
    def read(self, path, output="o.tsv", **params):
        return list(LinearHead({"model": "h.npz", **params}).read(job_of(path, output)))

    def test_per_token_arrays_are_refused(self, tmp_path):
        for suffix in ("npz", "parquet"):
            path = tmp_path / f"x.{suffix}"
            write_arrays(str(path), ["a"], [{"layer6": np.ones((4, 3), np.float32)}])
            with pytest.raises(InputError, match=r"'a' has the shape \(4, 3\); .* 'pool: mean'"):
                self.read(path)

    @pytest.mark.parametrize("suffix", ["npz", "parquet"])
    def test_an_array_that_is_not_there(self, tmp_path, suffix):
        path = tmp_path / f"x.{suffix}"
        write_arrays(str(path), ["a"], [{"layer6": np.ones(3, np.float32)}])
        with pytest.raises(InputError, match=r"layer9"):
            self.read(path, array="layer9")

    @pytest.mark.parametrize("suffix", ["npz", "parquet"])
    def test_damaged_files(self, tmp_path, suffix):
        path = tmp_path / f"x.{suffix}"
        path.write_text("no such thing")
        with pytest.raises(InputError, match="is damaged, or no file of embeddings"):
            self.read(path)
        with pytest.raises(InputError, match=r"cannot be read: .*[nN]o such file"):
            self.read(tmp_path / f"absent.{suffix}")

    def test_numbers_that_are_none(self, tmp_path):
        write_arrays(str(tmp_path / "x.npz"), ["a"], [{"e": np.array([1, np.inf], np.float32)}])
        with pytest.raises(InputError, match="'a' holds numbers that are not finite"):
            self.read(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"output": "o.csv"}, "suffix must be one of .tsv, .parquet"),
            ({"model": None}, "param model: got None; expected the path of the trained weights"),
            ({"activation": "relu"}, "param activation: got 'relu'"),
        ],
    )
    def test_misuse(self, tmp_path, given, message):
        with pytest.raises(InputError) as caught:
            self.read(tmp_path / "x.npz", **given)
        assert message in str(caught.value)

    def test_importing_the_tool_imports_nothing_heavy(self):
        code = (
            "import sys, snakemake_executor_gpupool.tools.linear_head\n"
            "sys.exit(str({'torch', 'numpy', 'pyarrow'} & set(sys.modules) or '') or 0)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
