"""Folding with transformers' ``EsmForProteinFolding``: sequences in, atoms and confidence out.

This module imports torch and transformers: only a worker that holds the model imports it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EsmConfig, EsmForProteinFolding
from transformers.models.esm.openfold_utils import compute_tm
from transformers.models.esm.openfold_utils.feats import atom14_to_atom37
from transformers.models.esm.openfold_utils.residue_constants import (
    atom_types,
    restype_1to3,
    restype_order_with_x,
    restypes,
)

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import hub
from snakemake_executor_gpupool.tools.esmfold_chains import Joined
from snakemake_executor_gpupool.tools.structures import Structure

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Folding does not use it, and not all checkpoints have it.
UNUSED = "esm.contact_head."


def load_model(name: str, precision: str) -> Any:
    """Load a model onto the CPU.

    Parameters
    ----------
    name
        A directory, or the name of a repository on the Hugging Face hub.
    precision
        Type of the language model's weights; the trunk's are float32 always.

    Raises
    ------
    InputError
        There is no such model, or it is no whole ESMFold; the message says what to do.
    """
    model, report = hub.found(name, "an ESMFold model", lambda local: _loaded(name, local))
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        # transformers would have drawn them at random.
        raise InputError(f"{name} is not a whole ESMFold model: it lacks {', '.join(missing[:3])}")
    frequencies = {n: b for n, b in model.esm.named_buffers() if n.endswith("inv_freq")}
    model.esm.to(PRECISIONS[precision])
    for path, buffer in frequencies.items():
        # Angles per residue: rounded to bf16, they are a radian off after a few hundred.
        holder, _, own_name = path.rpartition(".")
        setattr(model.esm.get_submodule(holder), own_name, buffer)
    _read_one_by_one(model)
    return model.eval().requires_grad_(requires_grad=False)


def _loaded(name: str, local: bool) -> Any:
    config = EsmConfig.from_pretrained(name, local_files_only=local)
    if config.esmfold_config is None:
        raise InputError(
            f"{name} is no ESMFold model: its config.json is missing or has no esmfold_config"
        )
    # The language model's precision is set later, to what the param says.
    config.esmfold_config.fp16_esm = False
    return EsmForProteinFolding.from_pretrained(
        name, config=config, local_files_only=local, dtype=torch.float32, output_loading_info=True
    )


def _read_one_by_one(model: Any) -> None:
    """Have the language model read each protein of a batch by itself, without padding.

    What it makes of a padded protein differs in the last digit, which in half precision is the
    fourth of a number, and the trunk turns that into tenths of an Å. It takes a small part of the
    time: the trunk goes on with whole batches.
    """
    read_batch = model.compute_language_model_representations

    def read_each(residues: Tensor) -> Tensor:
        lengths = residues.ne(model.esm_dict_padding_idx).sum(1).tolist()
        states = [read_batch(row[None, :length])[0] for row, length in zip(residues, lengths)]
        padded = states[0].new_zeros((*residues.shape, *states[0].shape[1:]))
        for row, state in zip(padded, states):
            row[: len(state)] = state
        return padded

    model.compute_language_model_representations = read_each


def fold(
    model: Any, proteins: Sequence[Joined], recycles: int | None, chunk_size: int | None
) -> list[Structure]:
    """Fold proteins that share a batch.

    Parameters
    ----------
    model
        From :func:`load_model`.
    proteins
        At least one.
    recycles
        How often the trunk's output goes through it again; None: as the model's settings say.
    chunk_size
        Rows of the pair representation that attention takes at a time; None: all.
    """
    device = model.af2_to_esm.device
    letters = [[restype_order_with_x.get(a, 20) for a in p.sequence] for p in proteins]
    residues = _padded(letters, device)
    present = _padded([[1] * len(p.sequence) for p in proteins], device)
    positions = _padded([p.positions for p in proteins], device)
    model.trunk.set_chunk_size(chunk_size)
    with torch.inference_mode(), _raw_ptm_logits(model) as ptm_logits:
        output = model(residues, present, position_ids=positions, num_recycles=recycles)
        places = atom14_to_atom37(output["positions"][-1], output).float().cpu().numpy()
        exists = output["atom37_atom_exists"].cpu().numpy()
        plddt = 100 * output["plddt"].float().cpu().numpy()
        ptms = [_ptm(ptm_logits[-1][i], p) for i, p in enumerate(proteins)]
    rows = zip(proteins, letters, places, exists, plddt, ptms)
    return [_structure(*row) for row in rows]


def _padded(rows: Sequence[Sequence[int]], device: Any) -> Tensor:
    """Return int64 of shape (B, longest), zero at the end of shorter rows."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)


@contextlib.contextmanager
def _raw_ptm_logits(model: Any) -> Iterator[list[Tensor]]:
    """Collect what the pTM head returns, and have the model go on with numbers only.

    The model makes one pTM of a whole batch, which nobody uses, and where one protein has NaN
    an error of it: a wrong index, which says nothing of the cause.
    """
    raw: list[Tensor] = []

    def keep(_: Any, __: Any, logits: Tensor) -> Tensor:
        raw.append(logits)
        return logits.nan_to_num()

    hook = model.ptm_head.register_forward_hook(keep)
    try:
        yield raw
    finally:
        hook.remove()


def _ptm(logits: Tensor, protein: Joined) -> float:
    """Return the predicted TM-score of one protein; NaN if it has none.

    What the model itself returns is one number for the whole batch, padding and linkers included.
    """
    kept = torch.tensor([i for i, c in enumerate(protein.chains) if c is not None])
    kept = kept.to(logits.device)
    own = logits.index_select(0, kept).index_select(1, kept)
    if not bool(own.isfinite().all()):
        return float("nan")
    return float(compute_tm(own[None].float(), max_bin=31, no_bins=own.shape[-1]))


def _structure(
    protein: Joined, letters: Sequence[int], places: Any, exists: Any, plddt: Any, ptm: float
) -> Structure:
    """Cut a batch's padded arrays, of shape (longest, 37, ...), to one protein's own atoms."""
    kept = np.array([i for i, chain in enumerate(protein.chains) if chain is not None])
    row, kind = np.nonzero(exists[kept] > 0)
    own = kept[row]
    chains = [protein.chains[i] or 0 for i in kept]
    return Structure(
        chains=np.bincount(chains).tolist(),
        chain=np.array(chains, np.int32)[row],
        number=np.array(protein.numbers, np.int32)[own],
        residue=[restype_1to3[restypes[letters[i]]] for i in own],
        atom=[atom_types[i] for i in kind],
        xyz=places[own, kind].astype(np.float32),
        plddt=plddt[own, kind].astype(np.float32),
        ptm=ptm,
    )
