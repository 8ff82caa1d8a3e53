"""linear-head against torch's own linear layer, and on files that are wrong."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import save_file

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Job, Named
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

    def test_one_row_for_two_classes_is_a_logistic_regression(self, tmp_path, vectors):
        """The label is the class of the larger probability, as scikit-learn has it."""
        linear_model = pytest.importorskip("sklearn.linear_model")
        labels = np.where(vectors[:, 0] + vectors[:, 1] > 0.3, "yes", "no")
        trained = linear_model.LogisticRegression().fit(vectors, labels)
        assert trained.coef_.shape == (1, 16)
        parts = {"weight": trained.coef_, "bias": trained.intercept_, "classes": trained.classes_}
        np.savez(tmp_path / "h.npz", **{**parts, "classes": parts["classes"].astype(str)})
        write_arrays(str(tmp_path / "x.npz"), IDS, [{"e": vector} for vector in vectors])
        for activation in ("softmax", "sigmoid"):
            job = job_of(tmp_path / "x.npz", tmp_path / "o.tsv", model=str(tmp_path / "h.npz"))
            run_cold(LinearHead, job.replace(params={**job.params, "activation": activation}))
            table = pd.read_csv(tmp_path / "o.tsv", sep="\t")
            assert list(table.columns) == ["id", "no", "yes", "label"]
            expected = trained.predict_proba(vectors)
            assert np.abs(table[["no", "yes"]].to_numpy() - expected).max() <= 2e-6
            assert table["label"].tolist() == trained.predict(vectors).tolist()
            assert table["label"].nunique() == 2
        with pytest.raises(InputError, match="one row and the names of two classes"):
            run_cold(LinearHead, job.replace(params={**job.params, "activation": "linear"}))

    @pytest.mark.parametrize("names", [{}, {"classes": ["hot"]}])
    def test_one_row_for_one_class(self, tmp_path, vectors, names):
        weight = np.linspace(-1, 1, 16)[None]
        np.savez(tmp_path / "h.npz", weight=weight, bias=[0.5], **names)
        write_arrays(str(tmp_path / "x.npz"), IDS, [{"e": vector} for vector in vectors])
        outputs = vectors.astype(float) @ weight[0] + 0.5
        expected = {"sigmoid": 1 / (1 + np.exp(-outputs)), "linear": outputs}
        for activation, scores in expected.items():
            params = {"model": str(tmp_path / "h.npz"), "activation": activation}
            run_cold(LinearHead, job_of(tmp_path / "x.npz", tmp_path / "o.parquet", **params))
            table = pd.read_parquet(tmp_path / "o.parquet")
            (name,) = names.get("classes", ["class0"])
            assert list(table.columns) == ["id", name], "a label that is always the same"
            assert np.abs(table[name].to_numpy() - scores).max() <= 2e-6
        for given in ({}, {"activation": "softmax"}):
            with pytest.raises(InputError, match=r"h\.npz has one row, and over one class softmax"):
                params = {"model": str(tmp_path / "h.npz"), **given}
                run_cold(LinearHead, job_of(tmp_path / "x.npz", tmp_path / "o.tsv", **params))

    def test_scores_that_are_not_finite(self, tmp_path):
        np.savez(tmp_path / "h.npz", weight=[[1e300, 1], [1, 1]], bias=[1e30, 0])
        for activation in ("linear",):
            tool = LinearHead({"model": str(tmp_path / "h.npz"), "activation": activation})
            tool.load("cpu")
            good, bad = (
                Embedding(n, np.array(v, np.float32)) for n, v in (("a", [0, 1]), ("b", [3, 1]))
            )
            assert tool.run([good])
            with pytest.raises(
                InputError, match=r"not finite numbers, of b: the weights of .*h.npz"
            ):
                tool.run([good, bad])

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
            ({"weight": np.ones((3, 3)), "bias": np.ones((3, 1))}, r"bias has the shape \(3, 1\)"),
            ({"weight": np.ones((3, 3)), "bias": 1.0}, r"bias has the shape \(\)"),
            ({"weight": np.ones((1, 3)), "bias": np.ones(2)}, r"bias has the shape \(2,\)"),
            ({"weight": np.ones((1, 3)), "classes": list("abc")}, r"classes has the shape \(3,\)"),
            ({"weight": np.ones((3, 3)), "classes": "abc"}, "must be a list of names"),
            ({"weight": np.ones((2, 3)), "classes": ["a", " "]}, "must be a list of names"),
            (
                {"weight": np.ones((2, 3)), "biases": np.ones(2)},
                "has biases, which nothing is done",
            ),
            ({"weight": np.ones((2, 3)) * 1j}, "weight is of the type complex128"),
            ({"weight": np.full((2, 3), np.nan)}, "not finite"),
            ({"weight": np.ones((2, 3)), "bias": [np.inf, 0]}, r"not finite \(bias\)"),
        ],
    )
    def test_parts_that_do_not_fit(self, tmp_path, parts, message):
        np.savez(tmp_path / "h.npz", **parts)
        with pytest.raises(InputError, match=message):
            read_head(str(tmp_path / "h.npz"))

    def test_names_of_other_kinds(self, tmp_path):
        for given, names in ((np.array([b"a", b"\xc3\xa9"]), ("a", "\xe9")), ([3, 7], ("3", "7"))):
            np.savez(tmp_path / "h.npz", weight=np.ones((2, 3)), classes=given)
            assert read_head(str(tmp_path / "h.npz")).classes == names
        save_file({"weight": np.ones((2, 3))}, tmp_path / "h.safetensors", {"classes": '"ab"'})
        with pytest.raises(InputError, match="must be a list of names; it is 'ab'"):
            read_head(str(tmp_path / "h.safetensors"))

    def test_half_precision(self, tmp_path):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            torch.save({"weight": torch.full((2, 3), 0.1, dtype=dtype)}, tmp_path / "h.pt")
            weight = read_head(str(tmp_path / "h.pt")).weight
            assert weight.tolist() == [[float(torch.tensor(0.1, dtype=dtype))] * 3] * 2

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
    @pytest.mark.parametrize("ids", [["a"], ["a", "b"], ["sp|P1|X/2-9", "sp|P1|X/10-40"]])
    def test_several_arrays_of_which_none_is_asked_for(self, tmp_path, suffix, ids):
        path, vector = tmp_path / f"x.{suffix}", np.ones(3, np.float32)
        write_arrays(str(path), ids, [{"layer3": vector * 2, "layer6": vector} for _ in ids])
        with pytest.raises(InputError, match=r"layer3, layer6.*[pP]aram array says which one"):
            self.read(path)
        found = self.read(path, array="layer3")
        assert [item.id for item in found] == ids
        assert all(item.vector.tolist() == [2, 2, 2] for item in found)

    @pytest.mark.parametrize("suffix", ["npz", "parquet"])
    @pytest.mark.parametrize("ids", [["x/1", "x/2"], ["a", "a/layer3"], ["P/layer1", "P/layer2"]])
    def test_ids_with_a_slash_are_no_labels(self, tmp_path, suffix, ids):
        path = tmp_path / f"x.{suffix}"
        write_arrays(str(path), ids, [{"e": np.full(3, n, np.float32)} for n, _ in enumerate(ids)])
        found = self.read(path)
        assert [(item.id, item.vector[0]) for item in found] == [(n, i) for i, n in enumerate(ids)]

    @pytest.mark.parametrize(
        ("names", "array", "expected"),
        [
            (["a/layer3", "a/layer6", "b/layer3", "b/layer6"], "", "several arrays"),
            (["a/layer3", "a/layer6", "b/layer3"], "", "several arrays per id: layer3, layer6"),
            (["a/one", "a/two"], "", "several arrays per id: one, two.* parts of ids, write"),
            (["a/one", "a/two", "b/two", "b/one"], "two", [("a", 1), ("b", 2)]),
            (["a/one", "a/two", "b/one"], "two", r"no array 'two' of b/one; embed all"),
            (["b", "a/two"], "two", r"no array 'two' of b; embed"),
            (["a", "a/two"], "two", [("a", 1)]),
            (["x/a/in/one", "x/a/in/two", "x/b/in/one"], "in/one", [("x/a", 0), ("x/b", 2)]),
            (["x/1", "y/2", "x"], "", [("x/1", 0), ("y/2", 1), ("x", 2)]),
            (["x/1", "y/1"], "", [("x/1", 0), ("y/1", 1)]),
        ],
    )
    def test_names_in_files_of_others(self, tmp_path, names, array, expected):
        path = tmp_path / "x.npz"
        np.savez(path, **{name: np.full(3, n, np.float32) for n, name in enumerate(names)})
        if isinstance(expected, str):
            with pytest.raises(InputError, match=expected):
                self.read(path, array=array)
        else:
            found = [(item.id, item.vector[0]) for item in self.read(path, array=array)]
            assert found == expected

    def test_an_id_that_has_not_the_array(self, tmp_path):
        """As when files of two runs were put together."""
        one, other = ([n + "/layer3", n + "/layer6"] for n in "ab")
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for name in [*one, other[0]]:
                entry = zipfile.ZipInfo(f"{name}.npy")
                entry.comment = b"gpupool label " + name[2:].encode()
                with archive.open(entry, "w") as file:
                    np.lib.format.write_array(file, np.ones(3, np.float32))
        with pytest.raises(InputError, match="no array 'layer6' of b; embed all"):
            self.read(tmp_path / "x.npz", array="layer6")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_ids_that_are_there_twice(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for number, name in enumerate("aba"):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, np.full(3, number, np.float32))
        with pytest.raises(
            InputError, match=r"x\.npz, row 3: the id 'a' was already used in row 1"
        ):
            self.read(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (["a", "b", "a"], "row 3: the id 'a' was already used in row 1"),
            (["a", None, "b"], "row 2: there is no id; write one"),
            (["a", " ", "b"], "row 2: there is no id"),
            ([1.0, float("nan"), 2.0], "row 1: the id 1.0 is of the type float"),
            ([b"a", b"b", b"c"], "row 1: the id b'a' is of the type bytes"),
            ([True, False, True], "row 1: the id True is of the type bool"),
            ([7, 8, 9], None),
        ],
    )
    def test_ids_of_a_table(self, tmp_path, ids, message):
        frame = pd.DataFrame({"id": ids, "embedding": [[1.0, n] for n in range(3)]})
        frame.to_parquet(tmp_path / "x.parquet")
        if message is None:
            assert [item.id for item in self.read(tmp_path / "x.parquet")] == ["7", "8", "9"]
            return
        with pytest.raises(InputError) as caught:
            self.read(tmp_path / "x.parquet")
        assert message in str(caught.value)

    def test_ids_that_the_table_to_be_written_cannot_hold(self, tmp_path):
        for name in ("a\0b", "a\rb"):
            write_arrays(str(tmp_path / "x.parquet"), [name], [{"e": np.ones(3, np.float32)}])
            with pytest.raises(InputError, match=r"output scores\.tsv: the id 'a.*cannot hold"):
                self.read(tmp_path / "x.parquet", "scores.tsv")
            assert self.read(tmp_path / "x.parquet", "scores.parquet")[0].id == name

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([["1", "2"]], "'a' holds values of the type object, not numbers"),
            ([None], r"'a' has the shape \(0,\)"),
            ([[1.0, None]], "'a' holds numbers that are not finite"),
            ([[1e39, 0.0]], "'a' holds numbers that are not finite"),
        ],
    )
    def test_tables_of_other_things(self, tmp_path, values, message):
        pd.DataFrame({"id": ["a"], "embedding": values}).to_parquet(tmp_path / "x.parquet")
        with pytest.raises(InputError, match=message):
            self.read(tmp_path / "x.parquet")

    def test_other_ways_to_keep_numbers(self, tmp_path):
        values = np.arange(8).reshape(2, 4)
        for kind in (pa.list_(pa.float16()), pa.list_(pa.int64()), pa.list_(pa.float64(), 4)):
            column = pa.array(values.astype(kind.value_type.to_pandas_dtype()).tolist(), kind)
            table = pa.table({"id": ["a", "b"], "length": [1, 2], "embedding": column})
            parquet.write_table(table, tmp_path / "x.parquet")
            found = self.read(tmp_path / "x.parquet")
            assert np.array_equal(np.stack([item.vector for item in found]), values)

    @pytest.mark.parametrize("suffix", ["npz", "parquet"])
    def test_no_embeddings(self, tmp_path, suffix):
        write_arrays(str(tmp_path / f"x.{suffix}"), [], [])
        with pytest.raises(InputError, match="has no embeddings"):
            self.read(tmp_path / f"x.{suffix}")

    def test_a_complex_array(self, tmp_path):
        np.savez(tmp_path / "x.npz", a=np.ones(3) * 1j)
        with pytest.raises(InputError, match="'a' holds values of the type complex128"):
            self.read(tmp_path / "x.npz")

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
