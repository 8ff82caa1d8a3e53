"""Results that are no numbers are refused, with the item's name and what to try.

Standard library only, except that what is checked is numpy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import InputError

#: How many items, or parts of a model, a message names.
MAX_NAMED = 5
#: What to try, by the precision at hand.
ADVICE = {
    "fp16": "in fp16, numbers beyond 65,504 are infinite: try precision bf16 or fp32",
    "bf16": "try precision fp32",
    "nf4": "try precision fp32",
}
LAST_ADVICE = "the weights of {model} seem to be damaged: fetch or make them again"


def is_finite(*values: Any) -> bool:
    """Tell whether all numbers of arrays, or numbers, are finite."""
    import numpy as np

    return all(bool(np.isfinite(value).all()) for value in values)


def not_finite(
    names: Sequence[str],
    model: str,
    precision: str = "fp32",
    damaged: Sequence[str] = (),
    what: str = "results that are not finite numbers",
) -> InputError:
    """Return the error of items whose results hold NaN or infinite numbers.

    Parameters
    ----------
    names
        The items' names.
    model, precision
        What computed them.
    damaged
        Parts of the model whose weights are not finite themselves.
    what
        What is wrong with them.
    """
    advice = LAST_ADVICE.format(model=model)
    if damaged:
        advice += f" (not finite: {listed(damaged)})"
    if precision in ADVICE:
        advice = f"{ADVICE[precision]}; if that does not help, {advice}"
    return InputError(f"{what}, of {listed(names)}: {advice}")


def names_of(items: Iterable[str]) -> list[str]:
    """Return the names of items, each once: copies fill up the batches of a reproducible run."""
    return list(dict.fromkeys(items))


def damaged_parts(module: Any) -> list[str]:
    """Return the names of a torch module's parameters that hold NaN or infinite numbers."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and not bool(parameter.isfinite().all())
    ]


def listed(names: Iterable[str]) -> str:
    """Return the first few names, and that there are more."""
    names = list(names)
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
