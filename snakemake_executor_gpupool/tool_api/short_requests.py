"""Which requests are short enough to run through a chain of models in one dispatch.

A dispatch costs two frames and a turn of the run loop, however little there is to compute. One
dispatch for a whole chain of models instead of one for each therefore helps short requests only;
a long one would occupy all the models while others wait.

Worker side: standard library only, Python >= 3.9.

References
----------
Petals (https://github.com/bigscience-workshop/petals), ``src/petals/server/block_functions.py``:
its servers pass a short inference request through one merged pool, which runs all their blocks
in one call, and a longer one through the pool of each block. The two bounds are Petals' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Union

#: So many items show what one takes to compute: the first one by itself, which also has what is
#: done only once, and the others together.
TRIED = 8
#: A request of at most so many tokens, batch size times length, is short.
MAX_SHORT_INFERENCE_TOKENS = 128
#: The same for weights in NF4, whose kernels are quick for a single token only.
MAX_NF4_SHORT_INFERENCE_TOKENS = 1
#: Precisions whose bound is not the general one.
SHORT_TOKENS_OF = {"nf4": MAX_NF4_SHORT_INFERENCE_TOKENS}
#: The longest chain of models that is held side by side.
MAX_STAGES = 8

#: A tool's own bounds: one number, one for each precision, or None for the general ones.
ShortTokens = Union[int, Mapping[str, int], None]


def short_tokens(own: ShortTokens, precision: str) -> int:
    """Return up to how many tokens a request is short; 0 means that none is."""
    if isinstance(own, int):
        return own
    usual = SHORT_TOKENS_OF.get(precision, MAX_SHORT_INFERENCE_TOKENS)
    return int((own or {}).get(precision, usual))


def is_short(tokens: Sequence[int], most_tokens: int) -> bool:
    """Tell whether a request is short: its items as one batch, padded to the longest.

    Parameters
    ----------
    tokens
        Of each distinct item.
    most_tokens
        From :func:`short_tokens`.
    """
    return 0 < len(tokens) * max(tokens, default=0) <= most_tokens
