"""Sums over spans of time. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that spans of time cover together."""
    covered_s, reached_s = 0.0, float("-inf")
    for from_s, to_s in sorted(spans):
        if to_s > reached_s:
            covered_s += to_s - max(from_s, reached_s)
            reached_s = to_s
    return covered_s
