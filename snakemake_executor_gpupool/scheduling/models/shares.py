"""How devices that several models could use are divided among them. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from snakemake_executor_gpupool.scheduling.models.model import Model


def deal(works_s: Sequence[float], workers: Sequence[int], devices: int) -> list[int]:
    """Return how many of some devices each model gets: one after the other goes where most is left.

    That is LPT among models: each device goes to the one whose workers would finish last.

    Parameters
    ----------
    works_s
        For each model what all that waits takes one worker.
    workers
        How many workers each has, or is getting.
    devices
        How many there are to deal out.
    """
    dealt = [0] * len(works_s)

    def left_s(number: int) -> float:
        count = workers[number] + dealt[number]
        return works_s[number] / count if count else math.inf

    last = [(-left_s(number), number) for number, work_s in enumerate(works_s) if work_s > 0.0]
    heapq.heapify(last)
    for _ in range(devices if last else 0):
        number = last[0][1]
        dealt[number] += 1
        heapq.heapreplace(last, (-left_s(number), number))
    return dealt


def waiting_s(model: Model) -> float:
    """Return what all that waits takes one worker; 0 if nothing does, or nothing was measured."""
    return (model.speed.seconds(model.waiting_cost()) or 0.0) if model.waiting else 0.0
