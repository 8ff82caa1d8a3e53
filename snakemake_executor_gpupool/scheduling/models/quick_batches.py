"""Larger micro-batches for tools that say nothing of their size and need next to no time. Pure.

To decide, send and write down a micro-batch takes the coordinator some 0.3 ms, however small it is.
Where a full one is computed in less, devices wait for it: more items go together then.
"""

from __future__ import annotations

from collections.abc import Sequence

from snakemake_executor_gpupool.scheduling.models.batch_time import Speed
from snakemake_executor_gpupool.wire.frames import Blob, blobs_size

#: A micro-batch beyond the budget may take so many seconds, as far as can be told.
QUICK_S = 0.005
#: And its items, or their results, so many bytes.
MOST_BYTES = 1024**2
#: One that has taken so long was not quick: the next ones are a quarter as large.
SLOW_S = 4 * QUICK_S


class QuickBatches:
    """How far a model's micro-batches may go beyond their budget.

    Attributes
    ----------
    most_tokens
        What the tool's process allows; 0: no more than the budget.
    """

    def __init__(self) -> None:
        self.most_tokens = 0
        #: The largest mean size of the items, or the results, of a batch; None: none was seen.
        self._item_bytes: float | None = None
        self._share = 1.0

    def saw(self, blobs: Sequence[Blob]) -> None:
        """Take in the items of a batch, or their results."""
        if self.most_tokens and blobs:
            self._item_bytes = max(self._item_bytes or 0.0, blobs_size(blobs) / len(blobs))

    def took(self, tokens: int, budget_tokens: int, seconds: float) -> None:
        """Take in what a batch took; the model's speed heeds only what most of them do."""
        if tokens > budget_tokens:
            self._share = self._share / 4 if seconds > SLOW_S else min(2 * self._share, 1.0)

    def bounds(self, speed: Speed) -> tuple[int, float]:
        """Return up to how many tokens and how much cost the next one may go; nothing: (0, 0)."""
        if not self.most_tokens or self._item_bytes is None or not speed.s_per_cost:
            return 0, 0.0
        # Each item of such a tool is one token.
        tokens = min(self.most_tokens * self._share, MOST_BYTES / max(self._item_bytes, 1.0))
        return int(tokens), (QUICK_S - speed.fixed_s) / speed.s_per_cost
