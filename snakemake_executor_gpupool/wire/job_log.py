"""What pool and workers write into the log of a job. Standard library only, Python >= 3.9."""

from __future__ import annotations


def log_line(items: int, distinct: int, by: str) -> str:
    """Return what the log of every served job says of its results."""
    return f"gpupool: {items} items, {distinct} distinct, computed by {by}\n"
