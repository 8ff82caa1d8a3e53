"""One rule for the size of a micro-batch, one for cutting, one for halving."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.scheduling.models.work_queue import WorkQueue
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.tool_api.micro_batches import cut, halves, size_of
from snakemake_executor_gpupool.tool_api.tool import Tool

TOKENS = st.lists(st.integers(0, 20), max_size=40)


def taken(tokens: list[int], pads: bool) -> int:
    """The size of a batch, from its meaning: a rectangle if it is padded."""
    width = sorted(tokens)[-1]
    return sum(width if pads else each for each in tokens)


@given(tokens=TOKENS, budget=st.integers(1, 60), pads=st.booleans())
def test_items_are_cut_in_order_and_each_batch_is_as_large_as_fits(
    tokens: list[int], budget: int, pads: bool
) -> None:
    batches = list(cut(tokens, budget, pads))
    assert [position for batch in batches for position in batch] == list(range(len(tokens)))
    for number, batch in enumerate(batches):
        sizes = [tokens[position] for position in batch]
        assert size_of(sizes, pads) == taken(sizes, pads)
        assert len(batch) == 1 or taken(sizes, pads) <= budget
        if number + 1 < len(batches):
            assert taken([*sizes, tokens[batches[number + 1][0]]], pads) > budget


@given(tokens=st.lists(st.integers(1, 20), max_size=40), pads=st.booleans())
def test_the_queue_a_cold_job_and_check_cut_alike(tokens: list[int], pads: bool) -> None:
    class Sized(Tool):
        def tokens(self, item: int) -> int:
            return item

    Sized.pads = pads
    tokens.sort(reverse=True)
    queue: WorkQueue[WorkItem] = WorkQueue()
    queue.push(
        WorkItem(n, "g", float(each), each, b"", "", (0, 1), n) for n, each in enumerate(tokens)
    )
    batches = []
    while batch := queue.take(30, pads):
        batches.append([item.arrival for item in batch])
    assert batches == list(cut(tokens, 30, pads)) == list(Sized().micro_batches(tokens, 30))


@given(items=st.lists(st.integers(), min_size=2))
def test_halves_are_both_smaller_and_nothing_is_lost(items: list[int]) -> None:
    first, second = halves(items)
    assert [*first, *second] == items and first and second
