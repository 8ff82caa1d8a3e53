"""How much of a text a sentence-transformers model sees, and which texts are longer.

This module knows models only by their attributes: it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from snakemake_executor_gpupool.errors import InputError

#: More tokens than any text has, and fewer than what tokenizers take for no number.
NO_LIMIT = 1_000_000_000
#: The most tokens of a byte of a text that is not ASCII: some signs stand for many letters.
MAX_TOKENS_PER_BYTE = 6
#: The most tokens that are put around a text.
MAX_ADDED_TOKENS = 8


def positions(model: Any) -> int | None:
    """Return for how many tokens a model has positions; None: as many as there are."""
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return None
    for module in transformer.modules():
        table = getattr(module, "position_embeddings", None)
        count = getattr(table, "num_embeddings", None)
        if isinstance(count, int):
            # RoBERTa and its kind count positions from behind the padding's.
            padding = getattr(module, "padding_idx", None)
            return count - (padding + 1 if isinstance(padding, int) else 0)
    count = getattr(transformer.config, "max_position_embeddings", None)
    return count if isinstance(count, int) and count > 0 else None


def set_limit(model: Any, name: str, max_tokens: int | None) -> None:
    """Have a model see so many tokens of a text, or as many as it is made for.

    Raises
    ------
    InputError
        It has no positions for so many, or nothing that could be set.
    """
    most = positions(model)
    if max_tokens is None:
        own = model.max_seq_length
        if most is not None and own is not None and own > most:
            model.max_seq_length = most
        return
    if most is not None and max_tokens > most:
        raise InputError(
            f"param max_tokens: {name} has positions for {most} tokens, not for {max_tokens}; set "
            f"it to {most} or less, or cut the texts into parts"
        )
    with contextlib.suppress(AttributeError):
        model.max_seq_length = max_tokens
    if model.max_seq_length != max_tokens:
        raise InputError(f"param max_tokens: {name} sees texts as a whole, and takes no limit")


def are_cut(model: Any, texts: Sequence[str], prompt: str | None) -> list[bool]:
    """Tell of each text whether a model sees only its start.

    Parameters
    ----------
    model
        A ``SentenceTransformer``.
    texts
        As they are given to its ``encode``.
    prompt
        What is put before each of them; None: the model's default.
    """
    limit = model.max_seq_length
    cut = [False] * len(texts)
    if not limit or limit >= NO_LIMIT:
        return cut
    whole = [f"{prompt_of(model, prompt)}{text}" for text in texts]
    long = [place for place, text in enumerate(whole) if _most_tokens(text) > limit]
    if long:
        for place, length in zip(long, _lengths(model, [whole[place] for place in long], limit)):
            cut[place] = length > limit
    return cut


def prompt_of(model: Any, prompt: str | None) -> str:
    """Return what a model's ``encode`` puts before each text, given its ``prompt``."""
    if prompt is None and model.default_prompt_name:
        prompt = model.prompts.get(model.default_prompt_name)
    return prompt or ""


def _most_tokens(text: str) -> int:
    per_byte = 1 if text.isascii() else MAX_TOKENS_PER_BYTE
    return per_byte * len(text.encode()) + MAX_ADDED_TOKENS


def _lengths(model: Any, texts: Sequence[str], limit: int) -> list[int]:
    """Return the tokens of whole texts, by the model's own way to make them."""
    # Version 5 has the one, version 6 the other.
    tokenize = getattr(model, "preprocess", None) or model.tokenize
    model.max_seq_length = NO_LIMIT
    try:
        present = tokenize(texts)["attention_mask"]
    finally:
        model.max_seq_length = limit
    lengths: list[int] = present.sum(1).tolist()
    return lengths
