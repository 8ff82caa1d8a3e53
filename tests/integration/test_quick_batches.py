"""Real workers get larger micro-batches of what takes no time, and no others do (P7, R5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.worker.describe import QUICK_TOKENS

TOOLS = Path(__file__).resolve().parents[1] / "tools"
ITEMS = [f"item {number}" for number in range(6000)]


@pytest.mark.parametrize(
    ("tool", "reproducible", "least", "most"),
    [("Sizes", False, 65, QUICK_TOKENS), ("Sizes", True, 64, 64), ("Bounded", False, 50, 50)],
)
def test_batches_are_as_large_as_the_tool_leaves_it_open(
    tool: str, reproducible: bool, least: int, most: int
) -> None:
    with ToolPool(devices="cpu:1", reproducible=reproducible) as pool:
        results = pool.run(f"{TOOLS / 'telling_sizes.py'}:{tool}", ITEMS)
    assert [item for item, _ in results] == ITEMS
    assert least <= max(size for _, size in results) <= most
