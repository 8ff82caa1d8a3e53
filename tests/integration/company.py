"""Random companies of items, and by how much results differ from what they should be."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Farthest(NamedTuple):
    """The largest difference of any number, as a part of what the tool's tolerance admits."""

    share: float
    what: str


def companies(count, tries, seed, most=9) -> Iterator[list[int]]:
    """Yield places of items that share a batch, in random numbers and order."""
    draw = random.Random(seed)
    for _ in range(tries):
        yield draw.sample(range(count), draw.randint(2, min(count, most)))


def farthest(tool, items, exact, tries=12, seed=1) -> Farthest:
    """Run items in random companies; compare each result's arrays with the exact ones."""
    tolerance, worst = tool.result_tolerance(), Farthest(0.0, "")
    for places in companies(len(items), tries, seed):
        for place, result in zip(places, tool.run([items[i] for i in places]), strict=True):
            share, name = share_of(tolerance, result, exact[place])
            worst = max(worst, Farthest(share, f"{name} of {items[place].id} in {places}"))
    return worst


def share_of(tolerance, one, other) -> tuple[float, str]:
    """Return the largest difference of two results, as a part of the tolerance, and where it is."""
    worst = (0.0, "")
    for name, (first, second) in pairs(one, other).items():
        difference = np.abs(first - second).max()
        bound = tolerance.bound(max(np.abs(first).max(), np.abs(second).max()))
        share = float(difference / bound) if bound else (np.inf if difference else 0.0)
        worst = max(worst, (share, name))
    return worst


def pairs(one, other) -> dict[str, tuple[Any, Any]]:
    """Return the arrays of two results side by side, in double precision."""
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return {name: (one[name].astype(float), other[name].astype(float)) for name in one}


def arrays(result) -> dict[str, Any]:
    """Return the numbers of a built-in tool's result, by name."""
    parts = result if isinstance(result, dict) else result._asdict()
    numbers = {n: v for n, v in parts.items() if isinstance(v, (np.ndarray, float))}
    return {name: np.atleast_1d(value) for name, value in numbers.items()}


def bits(result) -> dict[str, bytes]:
    """Return the numbers of a result, to the bit."""
    return {name: array.tobytes() for name, array in arrays(result).items()}
