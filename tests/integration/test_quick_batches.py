"""Real workers get larger micro-batches of what takes no time, and no others do (P7, R5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.worker.describe import QUICK_TOKENS

TOOLS = Path(__file__).resolve().parents[1] / "tools"
ITEMS = [f"item {number}" for number in range(6000)]


@pytest.mark.parametrize(
    ("tool", "reproducible", "least", "most"),
    [("Silent", False, 65, QUICK_TOKENS), ("Silent", True, 64, 64), ("Bounded", False, 50, 50)],
)
def test_batches_are_as_large_as_the_tool_leaves_it_open(
    tool: str, reproducible: bool, least: int, most: int
) -> None:
    with ToolPool(devices="cpu:1", reproducible=reproducible) as pool:
        results = pool.run(f"{TOOLS / 'quick.py'}:{tool}", ITEMS)
        events = pool._opened().paths.events.read_text().splitlines()
    assert results == [item.upper() for item in ITEMS]
    sent = [event for event in map(json.loads, events) if event["event"] == "batch_sent"]
    assert sum(event["items"] for event in sent) == len(ITEMS)
    assert least <= max(event["items"] for event in sent) <= most
