"""What the tests of esm2-embed share: small models, plain fair-esm, and transformers."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import torch

from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.tools.esm2 import Esm2Embed
from snakemake_executor_gpupool.tools.esm2_huggingface import fair_esm_name
from snakemake_executor_gpupool.tools.fasta import Record

#: Layers, width, heads of the smallest model that has more than one of each.
TINY = (3, 24, 2)
#: Lengths that share batches, among them the shortest possible.
LENGTHS = (1, 2, 37, 37, 90, 64, 5)


def proteins(lengths=LENGTHS, seed=1):
    draw = random.Random(seed)
    letters = "ACDEFGHIKLMNPQRSTVWY" * 5 + "XBZUO.-J*"
    return [Record(f"p{i}", "".join(draw.choices(letters, k=n))) for i, n in enumerate(lengths)]


def loaded(model, device="cpu", **params):
    tool = Esm2Embed({"model": str(model), **params})
    tool.device = device
    tool.load(device)
    return tool


def embed(tool, items, **params):
    """Run items in one batch, with params over the tool's own."""
    kept, tool.params = tool.params, type(tool.params)({**tool.params, **params})
    try:
        return tool.run(items)
    finally:
        tool.params = kept


def job(fasta, output, **params):
    return Job(
        rule="embed",
        wildcards={"sample": "s1"},
        input=Named.from_pairs([("fasta", str(fasta))]),
        output=Named.from_pairs([("embeddings", str(output))]),
        params=params,
    )


def write_fasta(path, records):
    Path(path).write_text("".join(f">{r.id}\n{r.sequence}\n" for r in records))
    return path


def token_ids(alphabet, sequence):
    """Return the tokens of one sequence, shape (1, L + 2), by the alphabet's own look-up."""
    body = [alphabet.get_idx(letter) for letter in sequence]
    return torch.tensor([[alphabet.cls_idx, *body, alphabet.eos_idx]])


def plain_fair_esm(checkpoint):
    """Load a checkpoint by fair-esm's own code."""
    import esm

    model, alphabet = esm.pretrained.load_model_and_alphabet(str(checkpoint))
    return model.eval(), alphabet


#: What checkpoints call rotary frequencies: transformers 5, 4, and what its module is called.
FREQUENCY_NAMES = [
    "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
    "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
    "encoder.layer.{}.attention.self.rotary_embeddings.inv_freq",
    "rotary_embeddings.inv_freq",
]


def rename_frequencies(directory, name):
    """Put the frequencies of a checkpoint under another name, or under none."""
    from safetensors.torch import load_file, save_file

    path = Path(directory, "model.safetensors")
    tensors = load_file(path)
    (old,) = [known for known in tensors if known.endswith("inv_freq")]
    frequencies = tensors.pop(old)
    if name is not None:
        prefix = "esm." if name.startswith("esm.") else ""
        tensors = {prefix + known: tensor for known, tensor in tensors.items()}
        layers = range(TINY[0] if "{}" in name else 1)
        tensors.update({name.format(number): frequencies.clone() for number in layers})
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(directory, lacking=(), **changes):
    """Take settings out of a directory's ``config.json``, or give them other values."""
    path = Path(directory, "config.json")
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in lacking}))


def write_hugging_face(directory, shape, seed=3, rounded=False, **save):
    """Write transformers' own model with all parameters drawn anew; return it.

    ``rounded`` rounds its rotary frequencies, as training in half precision has done to those
    of published checkpoints.
    """
    from transformers import EsmConfig, EsmModel

    layers, width, heads = shape
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        layer_norm_eps=1e-5, max_position_embeddings=1026,
    )  # fmt: skip
    model = EsmModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            scale = drawn / tensor.shape[-1] ** 0.5 if tensor.ndim > 1 else 0.1 * drawn
            norm = fair_esm_name(name).endswith(("norm.weight", "norm_after.weight"))
            tensor.copy_(drawn if "word_embeddings" in name else scale + norm)
        if rounded:
            model.rotary_embeddings.inv_freq.copy_(model.rotary_embeddings.inv_freq.bfloat16())
    model.save_pretrained(directory, **save)
    return model


def hugging_face_model(directory):
    """Load a directory by transformers; heads that it leaves out or adds are no matter."""
    from transformers import EsmModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EsmModel.from_pretrained(directory, add_pooling_layer=False).eval()


def hugging_face_states(model, tokens):
    """Return the hidden states of every layer, the last one normalised: float32, (T, D)."""
    with torch.inference_mode():
        found = model(tokens, attention_mask=tokens.ne(1), output_hidden_states=True)
    states = [*found.hidden_states[:-1], found.last_hidden_state]
    return [state[0].numpy() for state in states]


def largest_difference(one, other):
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float32
    return float(np.abs(one - other).max())


def parameters(module):
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.ndim}


def assert_same(one, other):
    assert parameters(one).keys() == parameters(other).keys()
    for name, tensor in parameters(one).items():
        assert torch.equal(tensor, parameters(other)[name]), name
