"""What pool and workers write into the log of a job. Standard library only, Python >= 3.9."""

from __future__ import annotations

from collections.abc import Sequence

#: Up to so many workers' logs are named, else their directory.
MAX_NAMED = 3


def computed_by(workers: Sequence[str], logs: Sequence[str]) -> str:
    """Return who computed a job's results, and where their output is.

    Parameters
    ----------
    workers
        Their names; empty: the results existed already.
    logs
        Their log files, in the same order.
    """
    if not workers:
        return "results computed before"
    places = list(logs)
    if len(places) > MAX_NAMED:
        places = [places[0].rpartition("/")[0] + "/"]
    return f"{', '.join(workers)} (what load and run print is in {', '.join(places)})"


def log_line(items: int, distinct: int, by: str) -> str:
    """Return the line on its results in the log of every served job."""
    return f"gpupool: {items} items, {distinct} distinct, computed by {by}\n"
