"""Weights in NF4, four bits each, by bitsandbytes: on GPUs, and on CPUs that it supports.

References
----------
T. Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs", NeurIPS 2023: NF4's 16
levels are the quantiles of a normal distribution, scaled in blocks of 64 weights.

This module imports torch: only a worker that holds a model imports it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from snakemake_executor_gpupool.errors import InputError

#: Weights that share a scale. bitsandbytes' CPU kernels (seen in 0.50.2) return wrong weights
#: where a row is no multiple of it: such layers are left as they are.
BLOCK = 64


def quantize_linears(module: nn.Module) -> None:
    """Put layers with weights in NF4 in the place of the linear layers below a module.

    Their inputs and outputs stay float32, and so do biases.

    Parameters
    ----------
    module
        float32, on the CPU.

    Raises
    ------
    InputError
        bitsandbytes is not there, or cannot run here; the message has its reason.
    """
    layer_of = _checked()
    for name, part in list(module.named_children()):
        if not isinstance(part, nn.Linear):
            quantize_linears(part)
        elif part.in_features % BLOCK == 0:
            setattr(module, name, _quantized(layer_of, part))


@functools.cache
def _checked() -> Any:
    """Return bitsandbytes' layer after a trial: some machines can import it but not run it."""
    try:
        from bitsandbytes.nn import Linear4bit

        _quantized(Linear4bit, nn.Linear(64, 64))(torch.zeros(1, 64))
    except Exception as error:
        raise InputError(
            "param precision: nf4 needs the Python package bitsandbytes, and it does not run here: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Linear4bit


def _quantized(layer_of: Any, linear: nn.Linear) -> nn.Module:
    size = linear.in_features, linear.out_features
    layer = layer_of(
        *size, bias=linear.bias is not None, compute_dtype=torch.float32, quant_type="nf4"
    )
    layer.load_state_dict(linear.state_dict(), strict=False)
    quantized: nn.Module = layer.to("cpu").requires_grad_(requires_grad=False)
    return quantized
