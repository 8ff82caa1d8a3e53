"""ESM-2 checkpoints in the Hugging Face format, by the names of fair-esm's module.

A directory holds ``config.json`` and the weights in ``model.safetensors`` or
``pytorch_model.bin``, whole or in shards with an index. The heads that a
fine-tuned model adds are left out. Standard library only, except for
``safetensors``, which is imported if the weights are in its format.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, NamedTuple

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.esm2_module import Shape, Weights

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
#: The order of fair-esm's alphabet, which the rows of the embedding follow.
VOCABULARY = [
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    "<null_1>",
    "<mask>",
]
#: Settings that fair-esm's module has built in, with the values it has.
FIXED = {
    "model_type": "esm",
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "hidden_act": "gelu",
    "is_decoder": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "mask_token_id": VOCABULARY.index("<mask>"),
    "vocab_size": len(VOCABULARY),
}
#: What transformers' ``EsmConfig`` takes where ``config.json`` does not say (5.24). Of the fixed
#: settings that are not here, it takes fair-esm's value, or its model does not work without.
THEIR_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "token_dropout": False,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
#: Where transformers takes null as it takes fair-esm's value.
NULLABLE = frozenset(FIXED) - {"position_embedding_type", "rope_theta"}
#: (pattern, replacement) from the Hugging Face names to fair-esm's, each tried in turn.
RENAMINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^esm\.", ""),
        (r"^embeddings\.word_embeddings\.", "embed_tokens."),
        (r"^encoder\.emb_layer_norm_after\.", "emb_layer_norm_after."),
        # Rotary frequencies that all layers share. transformers 5 saves them under the name that
        # each layer had for its own in version 4, with a literal "*" for the layer's number.
        (r"^(encoder\.layer\.\*\.attention\.self\.)?rotary_embeddings\.", "rot_emb."),
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.self\.([qkv])(uery|ey|alue)\.", r".self_attn.\1_proj."),
        (r"\.attention\.self\.rotary_embeddings\.", ".self_attn.rot_emb."),
        (r"\.attention\.output\.dense\.", ".self_attn.out_proj."),
        (r"\.attention\.LayerNorm\.", ".self_attn_layer_norm."),
        (r"\.intermediate\.dense\.", ".fc1."),
        (r"\.output\.dense\.", ".fc2."),
        (r"\.LayerNorm\.", ".final_layer_norm."),
        # What transformers calls the parts of a layer norm depends on its version.
        (r"norm\.gamma$", "norm.weight"),
        (r"norm\.beta$", "norm.bias"),
    )
]


class Config(NamedTuple):
    """What ``config.json`` says that fair-esm's module has to know."""

    shape: Shape
    token_dropout: bool
    layer_norm_eps: float


def read_config(directory: str) -> Config:
    """Read the architecture, as transformers would: with its defaults for what is not there.

    Raises
    ------
    InputError
        There is no ``config.json``, or it describes no ESM-2.
    """
    path = Path(directory, CONFIG)
    data = _read_json(path)
    config = {**THEIR_DEFAULTS, **data}
    for name, value in FIXED.items():
        given = config.get(name, value)
        if given != value and not (name in NULLABLE and given is None):
            default = "" if name in data else f", transformers' default, as {CONFIG} does not say"
            raise InputError(f"{path} is not of ESM-2: {name} is {given!r}, not {value!r}{default}")
    try:
        sizes = [
            config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        ]
        shape, eps = Shape(*map(int, sizes)), float(config["layer_norm_eps"])
        if eps <= 0:
            raise ValueError(f"layer_norm_eps {eps}")
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not of ESM-2: no usable {error}") from error
    return Config(shape, bool(config["token_dropout"]), eps)


def read(directory: str, read_pickled: Callable[[str], Any]) -> Weights:
    """Read a directory in the Hugging Face format.

    Parameters
    ----------
    directory
        Where ``config.json`` and the weights are.
    read_pickled
        Reads a file that ``torch.save`` wrote.

    Raises
    ------
    InputError
        A file is missing or wrong.
    """
    config = read_config(directory)
    _check_vocabulary(directory)
    tensors: dict[str, Any] = {}
    for path in _weight_files(directory):
        loaded = _read_safe(path) if path.endswith(".safetensors") else read_pickled(path)
        if not isinstance(loaded, dict):
            raise InputError(f"{path} holds no tensors by name")
        for name, tensor in loaded.items():
            known = fair_esm_name(name)
            if known in tensors:
                raise InputError(f"{directory} holds {known} twice, once as {name}")
            tensors[known] = tensor
    return Weights(
        directory, config.shape, config.token_dropout, tensors, layer_norm_eps=config.layer_norm_eps
    )


def fair_esm_name(name: str) -> str:
    """Return what fair-esm calls a tensor.

    Examples
    --------
    >>> fair_esm_name("esm.encoder.layer.0.attention.self.query.weight")
    'layers.0.self_attn.q_proj.weight'
    """
    for pattern, replacement in RENAMINGS:
        name = pattern.sub(replacement, name)
    return name


def _weight_files(directory: str) -> list[str]:
    for whole in (SAFETENSORS, PICKLED):
        path, index = Path(directory, whole), Path(directory, f"{whole}.index.json")
        if path.is_file():
            return [str(path)]
        if index.is_file():
            shards = _read_json(index).get("weight_map", {}).values()
            return [str(Path(directory, shard)) for shard in sorted(set(shards))]
    raise InputError(f"{directory} holds no weights: expected {SAFETENSORS} or {PICKLED} in it")


def _read_safe(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs the Python package safetensors; install it, or save the "
            f"weights as {PICKLED}"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # its own error class has moved between versions
        raise InputError(f"{path} is not a safetensors file, or it is damaged ({error})") from error


def _check_vocabulary(directory: str) -> None:
    path = Path(directory, "vocab.txt")
    if path.is_file() and path.read_text(encoding="utf-8").split() != VOCABULARY:
        raise InputError(f"{path} is not ESM-2's vocabulary")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object")
    return data
