"""Batches of one shape for a sentence-transformers model, as a reproducible run has them.

The model's own ``encode`` pads to the longest text of a batch. Only some of its versions can be
told another length, so a hook before its first part pads further.

This module knows models by their attributes; torch is imported where arrays are padded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.reproducible import next_rung
from snakemake_executor_gpupool.tools.sentence_limits import positions, prompt_of

#: Ways to compute attention that see each row of a batch as it is, padding included.
KERNELS = ("sdpa", "eager")


def rung_of(model: Any, text: str, prompt: str | None) -> int:
    """Return the length that a text is padded to: that of a rung, or all that the model takes.

    Raises
    ------
    InputError
        The model does not pad texts at all.
    """
    # Version 5 has the one, version 6 the other.
    tokenize = getattr(model, "preprocess", None) or model.tokenize
    tokens = int(_ids(tokenize([f"{prompt_of(model, prompt)}{text}"])).shape[1])
    limits = [limit for limit in (model.max_seq_length, positions(model)) if limit]
    return max(tokens, min([next_rung(tokens), *limits]))


@contextlib.contextmanager
def padded_to(model: Any, tokens: int) -> Iterator[None]:
    """Have a model pad all texts to one length, and compute attention in one way.

    Parameters
    ----------
    model
        A ``SentenceTransformer``.
    tokens
        The length; no text has more.
    """
    _set_kernel(model[0])

    def pad(_: Any, given: Any) -> None:
        _pad(given[0], tokens, model.tokenizer)

    hook = model[0].register_forward_pre_hook(pad)
    try:
        yield
    finally:
        hook.remove()


def _set_kernel(transformer: Any) -> None:
    """Replace a kernel that would pack the texts of a batch, or choose its way by them."""
    inner: Any = getattr(transformer, "auto_model", None)
    own = getattr(getattr(inner, "config", None), "_attn_implementation", None)
    if own is not None and own not in KERNELS:
        inner.set_attn_implementation("eager")


def _ids(features: Any) -> Any:
    ids = features.get("input_ids")
    if getattr(ids, "ndim", 0) != 2 or "attention_mask" not in features:
        raise InputError(
            "sentence-embed cannot serve a reproducible run with this model: it does not pad texts "
            "to one length. Use a transformer, or run without --gpupool-reproducible"
        )
    return ids


def _pad(features: Any, tokens: int, tokenizer: Any) -> None:
    """Pad the features of a batch in place, on the tokenizer's side."""
    from torch.nn.functional import pad

    shape = _ids(features).shape
    missing = tokens - shape[1]
    sides = (missing, 0) if tokenizer.padding_side == "left" else (0, missing)
    fills = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
        "attention_mask": 0,
    }
    for name, value in features.items():
        if getattr(value, "shape", None) != shape:
            continue
        if missing < 0 or name not in fills:
            raise InputError(
                f"sentence-embed cannot serve a reproducible run with this model: {name} of "
                f"{shape[1]} tokens cannot be padded to {tokens}. Run without "
                "--gpupool-reproducible"
            )
        features[name] = pad(value, sides, value=fills[name])
