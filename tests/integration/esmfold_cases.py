"""What the tests of esmfold share: a small model of the real architecture, reading PDB files."""

import random

import gemmi
import torch

from snakemake_executor_gpupool.tools.esmfold import EsmFold
from snakemake_executor_gpupool.tools.fasta import Record
from snakemake_executor_gpupool.tools.structures import pdb_lines

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
#: Every part of the real model, the trunk with its two kinds of triangles among them, but small.
STRUCTURE_MODULE = {
    "sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2,
    "num_qk_points": 2, "num_v_points": 2, "num_blocks": 2,
}  # fmt: skip
TRUNK = {
    "num_blocks": 2, "sequence_state_dim": 16, "pairwise_state_dim": 8, "sequence_head_width": 8,
    "pairwise_head_width": 4, "max_recycles": 2, "chunk_size": 8,
    "structure_module": STRUCTURE_MODULE,
}  # fmt: skip


def write_model(directory, seed=5):
    """Write a model with all its weights drawn: as initialised, it would fold everything alike."""
    from transformers import EsmConfig, EsmForProteinFolding
    from transformers.models.esm.configuration_esm import get_default_vocab_list

    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, position_embedding_type="rotary",
        token_dropout=True, emb_layer_norm_before=False, layer_norm_eps=1e-5,
        max_position_embeddings=1026, is_folding_model=True,
        esmfold_config={"fp16_esm": True, "lddt_head_hid_dim": 8, "trunk": TRUNK},
        vocab_list=list(get_default_vocab_list()),
    )  # fmt: skip
    model = EsmForProteinFolding(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                # The heads are made surer than a sum of small numbers is, so that scores differ.
                scale = 3.0 if "_head" in name else 1.0
                tensor.copy_(scale * drawn / tensor.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                tensor.copy_(0.1 * drawn)
    model.save_pretrained(directory)
    return str(directory)


def proteins(lengths, seed=1):
    draw = random.Random(seed)
    return [Record(f"p{i}", "".join(draw.choices(RESIDUES, k=n))) for i, n in enumerate(lengths)]


def loaded(model, **params):
    tool = EsmFold({"model": str(model), **params})
    tool.load("cpu")
    return tool


def fold(tool, items, **params):
    """Fold items in one batch, with params over the tool's own."""
    kept, tool.params = tool.params, type(tool.params)({**tool.params, **params})
    try:
        return tool.run(items)
    finally:
        tool.params = kept


def text_of(structure):
    """The lines that a PDB file has of a structure."""
    return "".join(pdb_lines(structure))


def parsed(structure):
    """Read these lines by gemmi."""
    return gemmi.read_pdb_string(text_of(structure))[0]


def sequence_of(chain):
    return gemmi.one_letter_code([residue.name for residue in chain])


def atoms_of(model):
    """Return (chain, number, residue, atom), coordinates and B-factor of every atom."""
    return [
        ((chain.name, residue.seqid.num, residue.name, atom.name), atom.pos.tolist(), atom.b_iso)
        for chain in model
        for residue in chain
        for atom in residue
    ]
