"""Graphs of jobs, drawn at random, for the scheduler in simulated time.

``bench/lookahead.py`` compares what the rules decide with and without a forecast over many of them;
unit tests do so over a few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

SHAPES = ("layers", "diamonds", "chains", "waves")
#: Load times, in times of an item: half of them are three items or less.
LOADS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: How loads are drawn: from :data:`LOADS`, or evenly from 0 to the longest of them.
DRAWS = ("steps", "even")


@dataclass(frozen=True)
class GraphJob:
    """One job: which model computes its items, and which jobs it reads from."""

    model: str
    costs: tuple[float, ...]
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Jobs in an order in which they could run, and what there is to run them on.

    Attributes
    ----------
    mistakes
        By how much the cost of each job's items is wrong.
    """

    shape: str
    jobs: tuple[GraphJob, ...]
    devices: int
    load_s: float
    mistakes: tuple[float, ...]
    knows_figures: bool

    @property
    def models(self) -> list[str]:
        """Return its models."""
        return sorted({job.model for job in self.jobs})


def random_graph(seed: int, draw: str = "steps") -> Graph:
    """Return a graph with 2 to 8 models on 1 to 8 devices.

    ``draw``: of :data:`DRAWS`; graphs of one seed differ in nothing but their loads.
    """
    rng = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    models = [f"m{number}" for number in range(rng.randint(2, 8))]
    jobs = _SHAPES[shape](rng, models)
    devices, load_s = rng.randint(1, 8), rng.choice(LOADS)
    if draw == "even":
        load_s = random.Random(f"load of {seed}").uniform(0.0, max(LOADS))
    return Graph(
        shape,
        tuple(jobs),
        devices,
        load_s,
        mistakes=tuple(2 ** rng.uniform(-1.0, 1.0) for _ in jobs),
        knows_figures=rng.random() < 0.5,
    )


def _job(rng: random.Random, model: str, after: Iterable[int] = ()) -> GraphJob:
    count = rng.choice((1, 1, 2, 4, 8))
    costs = tuple(rng.lognormvariate(0.0, 0.5) for _ in range(count))
    return GraphJob(model, costs, tuple(sorted(after)))


def _layers(rng: random.Random, models: Sequence[str]) -> list[GraphJob]:
    """Rules one after the other, each with a model; each job reads some of the layer before."""
    jobs: list[GraphJob] = []
    before: list[int] = []
    for _ in range(rng.randint(2, 8)):
        width, model = rng.randint(2, 24), rng.choice(models)
        layer = list(range(len(jobs), len(jobs) + width))
        fan_in = rng.choice((1, 2, len(before)))
        for _ in layer:
            jobs.append(_job(rng, model, rng.sample(before, min(fan_in, len(before)))))
        before = layer
    return jobs


def _diamonds(rng: random.Random, models: Sequence[str]) -> list[GraphJob]:
    """One job per sample, several models beside each other that read it, one that joins them."""
    jobs: list[GraphJob] = []
    for first, last, *_ in (rng.choices(models, k=2) for _ in range(rng.randint(1, 3))):
        sides = rng.sample(models, rng.randint(1, len(models)))
        for _ in range(rng.randint(2, 12)):
            top = len(jobs)
            jobs.append(_job(rng, first))
            jobs += [_job(rng, side, [top]) for side in sides]
            jobs.append(_job(rng, last, range(top + 1, len(jobs))))
    return jobs


def _chains(rng: random.Random, models: Sequence[str]) -> list[GraphJob]:
    """Samples that go through the same models in the same order, each by itself."""
    jobs: list[GraphJob] = []
    row = [rng.choice(models) for _ in range(rng.randint(2, 6))]
    for _ in range(rng.randint(3, 40)):
        for position, model in enumerate(row):
            jobs.append(_job(rng, model, [len(jobs) - 1] if position else []))
    return jobs


def _waves(rng: random.Random, models: Sequence[str]) -> list[GraphJob]:
    """Rounds: all models read what the last round's jobs have made together, again and again."""
    jobs: list[GraphJob] = []
    joined: list[int] = []
    for _ in range(rng.randint(2, 6)):
        used = rng.sample(models, rng.randint(1, len(models)))
        start = len(jobs)
        for _ in range(rng.randint(2, 16)):
            jobs.append(_job(rng, rng.choice(used), joined))
        jobs.append(_job(rng, rng.choice(models), range(start, len(jobs))))
        joined = [len(jobs) - 1]
    return jobs


_SHAPES: Mapping[str, Callable[[random.Random, Sequence[str]], list[GraphJob]]] = {
    "layers": _layers,
    "diamonds": _diamonds,
    "chains": _chains,
    "waves": _waves,
}
