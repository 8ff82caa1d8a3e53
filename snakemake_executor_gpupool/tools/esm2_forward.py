"""ESM-2's encoder, computed with the weights of fair-esm's module but without its waste.

fair-esm's own forward pass computes logits for every token, keeps the attention
weights of every layer, and turns the hidden states over twice a layer. Here the
same sums are done batch-first, with PyTorch's fused attention and GELU, and stop
at the hidden states. On a CPU sequences stand one after the other, without padding:
attention is computed for each by itself, so that it needs no mask. Against
fair-esm's forward pass the difference is rounding noise (tests hold it to 1e-5).
Contact maps need the attention weights: those go through fair-esm's own code.

This module imports torch: only a worker that holds the model imports it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from snakemake_executor_gpupool.tools.nf4 import quantize_linears

#: The type of what goes into matrix products.
PRECISIONS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "nf4": torch.float32,
}
#: Positions whose rotary angles are computed at a time.
ROTARY_BLOCK = 1024
#: What fair-esm's ``token_dropout`` makes of an embedding when no token is masked: training
#: masked 15% of the tokens, 80% of these by zeros (``esm/model/esm2.py``).
UNMASKED_SCALE = 1 - 0.15 * 0.8


class Encoder:
    """The encoder of an ESM-2 module.

    Parameters
    ----------
    model
        fair-esm's ``ESM2`` with its weights, float32. It is changed in place:
        ``precision`` applies to its linear layers.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: the type of the weights and inputs of
        matrix products; or ``"nf4"``: the weights of linear layers take four bits
        each. The residual stream, layer norms and all results stay float32, so that
        rounding does not add up over the layers.

    Raises
    ------
    InputError
        NF4 is asked for, and cannot be had here.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        self.model = model
        self.layers = int(model.num_layers)
        self._heads = int(model.attention_heads)
        self._dtype = PRECISIONS[precision]
        self._rotary: tuple[Tensor, Tensor] | None = None
        for layer in model.layers:
            if precision == "nf4":
                quantize_linears(layer)
            for part in _linear_parts(layer):
                part.to(self._dtype)

    def to(self, device: str) -> None:
        """Move the weights; what was only cached for the old device is dropped."""
        self.model.to(device)
        self._rotary = None

    def hidden_states(
        self, tokens: Tensor, layers: Iterable[int], *, always_mask: bool = False
    ) -> dict[int, Tensor]:
        """Compute hidden states of the layers asked for.

        Parameters
        ----------
        tokens
            int64 of shape (B, T), on the model's device: start, residues, end,
            padding; none of them masked.
        layers
            0 for the embedding, i for the output of the i-th layer; the last
            one's is normalised, as in fair-esm.
        always_mask
            Whether attention has a mask even where nothing is padded: with one, another kernel
            may compute it, so that a batch without padding would differ.

        Returns
        -------
        dict of int to Tensor
            float32 of shape (B, T, D) each; what stands at padding is undefined.
        """
        present = tokens.ne(self.model.padding_idx)
        needs_mask = always_mask or not bool(present.all())
        mask = present[:, None, None, :] if needs_mask else None
        cos_sin = self._cos_sin(tokens.shape[1])
        attend = functools.partial(self._attend, cos_sin=cos_sin, mask=mask)
        return self._states(self._embed(tokens, present), layers, attend)

    def hidden_rows(
        self, tokens: Tensor, lengths: Sequence[int], layers: Iterable[int]
    ) -> dict[int, Tensor]:
        """Compute the same for sequences that stand one after the other, without padding.

        Parameters
        ----------
        tokens
            int64 of shape (N,), on the model's device: start, residues and end of each sequence.
        lengths
            How many tokens each sequence has; N together.
        layers
            As in :meth:`hidden_states`.

        Returns
        -------
        dict of int to Tensor
            float32 of shape (N, D) each.
        """
        present = tokens.ne(self.model.padding_idx)
        half = self.model.embed_dim // self._heads // 2
        tables = [table[:, None, :half] for table in self._cos_sin(max(lengths))]
        cos, sin = (torch.cat([table[:length] for length in lengths]) for table in tables)
        # Spread over the heads once, not in every layer.
        shape = (len(tokens), self._heads, half)
        cos_sin = cos.expand(shape).contiguous(), sin.expand(shape).contiguous()
        attend = functools.partial(self._attend_rows, cos_sin=cos_sin, lengths=lengths)
        return self._states(self._embed(tokens, present), layers, attend)

    def states_and_attentions(
        self, tokens: Tensor, layers: Iterable[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Compute the same by fair-esm's own code, and the attention weights with it.

        Returns
        -------
        tuple
            Hidden states as above, and attention weights, float32 of shape
            (B, layers, heads, T, T), zero at padding.
        """
        output = self.model(tokens, repr_layers=list(layers), need_head_weights=True)
        return output["representations"], output["attentions"]

    # -- the parts of the pass -------------------------------------------------
    def _states(
        self, x: Tensor, layers: Iterable[int], attend: Callable[..., Tensor]
    ) -> dict[int, Tensor]:
        wanted = set(layers)
        states = {0: x} if 0 in wanted else {}
        for number, layer in enumerate(self.model.layers[: max(wanted)], start=1):
            x = self._layer(layer, x, attend)
            if number in wanted:
                states[number] = x
        if self.layers in wanted:
            states[self.layers] = self.model.emb_layer_norm_after(x)
        return states

    def _embed(self, tokens: Tensor, present: Tensor) -> Tensor:
        x: Tensor = self.model.embed_scale * self.model.embed_tokens(tokens)
        if self.model.token_dropout:
            x = x * UNMASKED_SCALE
        # Not times zero: were the padding's own embedding damaged, all would be.
        return x.masked_fill(~present.unsqueeze(-1), 0.0)

    def _layer(self, layer: Any, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        normed = layer.self_attn_layer_norm(x).to(self._dtype)
        x = x + attend(layer.self_attn, normed)
        normed = layer.final_layer_norm(x).to(self._dtype)
        change: Tensor = layer.fc2(functional.gelu(layer.fc1(normed)))
        return x + change

    def _attend(
        self, attention: Any, x: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, self._heads, width // self._heads)
        query = _rotate(attention.q_proj(x).view(shape).transpose(1, 2), *cos_sin)
        key = _rotate(attention.k_proj(x).view(shape).transpose(1, 2), *cos_sin)
        value = attention.v_proj(x).view(shape).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        projected: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        return projected

    def _attend_rows(
        self,
        attention: Any,
        x: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        lengths: Sequence[int],
    ) -> Tensor:
        width = x.shape[1]
        query, key, value = (
            project(x).view(len(x), self._heads, width // self._heads)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        _rotate_here(query, *cos_sin)
        _rotate_here(key, *cos_sin)
        mixed, start = [], 0
        for length, same in itertools.groupby(lengths):  # neighbours of one length go together
            end = start + length * sum(1 for _ in same)
            parts = (
                each[start:end].unflatten(0, (-1, length)).transpose(1, 2)
                for each in (query, key, value)
            )
            attended = functional.scaled_dot_product_attention(*parts)
            mixed.append(attended.transpose(1, 2).reshape(end - start, width))
            start = end
        projected: Tensor = attention.out_proj(torch.cat(mixed))
        return projected

    def _cos_sin(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the rotary tables for that many positions; they are computed once.

        All layers have the same frequencies (the loader checks it). Each block of positions is
        computed by itself, so that no bit depends on which lengths came before.
        """
        if self._rotary is None or len(self._rotary[0]) < length:
            frequencies = self.model.layers[0].self_attn.rot_emb.inv_freq
            end = -(-length // ROTARY_BLOCK) * ROTARY_BLOCK
            positions = torch.arange(end, device=frequencies.device, dtype=torch.float32)
            parts = positions.split(ROTARY_BLOCK)
            angles = [torch.outer(part, frequencies).repeat(1, 2) for part in parts]
            cos, sin = (torch.cat([turn(a) for a in angles]) for turn in (torch.cos, torch.sin))
            self._rotary = cos.to(self._dtype), sin.to(self._dtype)
        return self._rotary[0][:length], self._rotary[1][:length]


def _linear_parts(layer: Any) -> list[nn.Module]:
    attention = layer.self_attn
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
    return [*projections, layer.fc1, layer.fc2]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, T, d) vectors by their positions' angles, (T, d) tables."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _rotate_here(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate (N, H, d) vectors in place; the tables, (N, H, d / 2), have each angle once."""
    first, second = x.chunk(2, dim=-1)
    kept = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(kept)


def residue_means(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Average hidden states over residues: neither start, end nor padding count.

    Parameters
    ----------
    hidden
        float32 of shape (B, T, D).
    lengths
        int64 of shape (B,): residues of each sequence.

    Returns
    -------
    Tensor
        float32 of shape (B, D).
    """
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    counted = (positions >= 1) & (positions <= lengths[:, None])
    sums = hidden.masked_fill(~counted.unsqueeze(-1), 0.0).sum(dim=1)
    return sums / lengths[:, None]
