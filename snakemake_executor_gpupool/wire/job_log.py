"""What pool and workers write into the log of a job. Standard library only, Python >= 3.9."""

from __future__ import annotations

from collections.abc import Sequence

#: So many workers' logs are named; of more, the directory.
MAX_NAMED = 3


def computed_by(workers: Sequence[str], logs: Sequence[str]) -> str:
    """Say who computed a job's results, and where is what they printed meanwhile.

    Parameters
    ----------
    workers
        Their names; empty: nobody did for this job.
    logs
        The files that they print to, in the same order.
    """
    if not workers:
        return "results computed before"
    places = list(logs)
    if len(places) > MAX_NAMED:
        places = [places[0].rpartition("/")[0] + "/"]
    return f"{', '.join(workers)} (what load and run print is in {', '.join(places)})"


def log_line(items: int, distinct: int, by: str) -> str:
    """Return what the log of every served job says of its results."""
    return f"gpupool: {items} items, {distinct} distinct, computed by {by}\n"
