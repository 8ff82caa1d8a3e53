"""How many tokens a micro-batch has, how items are cut into micro-batches, how one is halved.

The scheduler, workers, cold jobs and ``gpupool check`` all go by these rules.

Worker side: standard library only, Python >= 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")


def padded_size(count: int, longest_tokens: int, total_tokens: int, pads: bool) -> int:
    """Return how many tokens ``count`` items take in one batch: padding counts if there is any."""
    return count * longest_tokens if pads else total_tokens


def size_of(tokens: Sequence[int], pads: bool) -> int:
    """Return how many tokens a batch has of items with these; 0 if there are none."""
    return padded_size(len(tokens), max(tokens, default=0), sum(tokens), pads)


def cut(tokens: Sequence[int], budget_tokens: int, pads: bool) -> Iterator[list[int]]:
    """Yield the positions of each micro-batch, all in the order given.

    Parameters
    ----------
    tokens
        Of each item.
    budget_tokens
        The most that a micro-batch has; an item that has more is one by itself.
    pads
        Whether items are padded to the longest of their batch.
    """
    batch: list[int] = []
    longest = total = 0
    for position, each in enumerate(tokens):
        longest, total = max(longest, each), total + each
        if batch and padded_size(len(batch) + 1, longest, total, pads) > budget_tokens:
            yield batch
            batch, longest, total = [], each, each
        batch.append(position)
    if batch:
        yield batch


def halves(items: Sequence[ItemT]) -> tuple[Sequence[ItemT], Sequence[ItemT]]:
    """Return the first and the second half of a batch that did not fit, or that failed."""
    middle = len(items) // 2
    return items[:middle], items[middle:]
