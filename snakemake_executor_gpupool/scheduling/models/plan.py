"""In batches of which size, and on how many devices, work is done. Pure.

What is done in which order, :mod:`~.work_queue` says.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

#: Finishing this much later than possible is worth a worker less.
SLACK = 1.04


def fair_share(waiting_cost: float, workers: int) -> float:
    """Return the most cost of a micro-batch, so that no worker is left with a long one at the end.

    Each batch takes at most half of a worker's even share of what waits: large batches while
    much waits, ever smaller ones towards the end, which even out errors of the estimated costs.

    References
    ----------
    S. F. Hummel, E. Schonberg, L. E. Flynn, "Factoring: a method for scheduling parallel
    loops", Commun. ACM 35 (1992) no. 8, 90-101.
    """
    return waiting_cost / (2 * workers) if workers > 1 else math.inf


def finish_s(items_s: Iterable[float], free_at_s: Iterable[float]) -> float:
    """Return when the last item is done, longest first, each by the worker that is free first.

    Parameters
    ----------
    items_s
        Seconds of each item.
    free_at_s
        For each worker, at least one, when it can start.
    """
    workers = list(free_at_s)
    heapq.heapify(workers)
    last_s = 0.0
    for seconds in sorted(items_s, reverse=True):
        done_s = workers[0] + seconds
        heapq.heapreplace(workers, done_s)
        last_s = max(last_s, done_s)
    return last_s


def ends_before_a_load(seconds: float, free_at_s: Sequence[float], load_s: float) -> bool:
    """Tell whether one worker alone does all that waits before another could be loaded.

    Then no more workers pay, and :func:`workers_that_pay` need not be asked item by item.

    Parameters
    ----------
    seconds
        Of all that waits.
    free_at_s, load_s
        As there.
    """
    return bool(free_at_s) and min(free_at_s) + seconds <= load_s


def workers_that_pay(
    items_s: Sequence[float],
    free_at_s: Sequence[float],
    load_s: float,
    free: int,
    most: int,
    price_s: float | None = None,
) -> int:
    """Return on how many devices a model should be.

    On free devices: as few as get the work done within ``SLACK`` of the earliest time that
    any number of them could. Beyond these, a device has to be taken from another model; that
    pays only while the time that one more saves exceeds the time that it takes to load.

    Parameters
    ----------
    items_s
        Seconds of each item that waits.
    free_at_s
        For each worker that has or is getting the model, in how many seconds it can start.
    load_s
        Seconds to start a worker and load the model.
    free
        How many more devices nobody uses.
    most
        How many workers there may be.
    price_s
        What one more has to save that takes a device from another model; None: ``load_s``.
    """
    price_s = load_s if price_s is None else price_s
    now = len(free_at_s)
    most = min(most, now + len(items_s))
    if now and (most <= now or finish_s(items_s, free_at_s) <= load_s):
        return now
    ends_s = [
        finish_s(items_s, [*free_at_s, *[load_s] * (count - now)]) if count else math.inf
        for count in range(now, most + 1)
    ]
    reachable = ends_s[: max(free, 0 if now else 1) + 1]
    good_s = SLACK * min(reachable)
    wanted = now + next(extra for extra, end_s in enumerate(reachable) if end_s <= good_s)
    if wanted >= now + free:
        while wanted < most and ends_s[wanted - now] - ends_s[wanted - now + 1] > price_s:
            wanted += 1
    return wanted
