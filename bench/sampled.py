"""Where the time of a run of Snakemake goes: looked at from inside, for rivals side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rivals
from measure import Runs

SAMPLER = rivals.HERE / "sampled"
FIELDS = ("places", "threads", "processes", "collecting")


@dataclass
class Sampled:
    """What was seen of one run.

    Attributes
    ----------
    places
        Wall and processor seconds of Snakemake's main thread, by what it was at.
    threads, processes
        Processor seconds of each thread of Snakemake's process, and of each process it started.
    """

    label: str
    jobs: int
    places: dict[str, list[float]]
    threads: dict[str, float]
    processes: dict[str, float]
    #: Processor seconds of garbage collection, by thread; part of what stands above.
    collecting: dict[str, float]

    @property
    def others(self) -> dict[str, float]:
        """Processor seconds of what is not the main thread, by name."""
        names = {name: f"thread {name}" for name in self.threads if name != "MainThread"}
        found = {text: self.threads[name] for name, text in names.items()}
        found |= {f"process {name}": took_s for name, took_s in self.processes.items()}
        return found | self.collecting


def sample(
    label: str, jobs: int, run: Callable[..., None], directory: Path, *options: Any
) -> Sampled:
    """Run a rival once more, slowed down a little by being looked at."""
    path = directory.with_name(f"{directory.name}.json")
    env = {"BENCH_SAMPLES": str(path), "PYTHONPATH": str(SAMPLER)}
    run(Runs(label), directory, *options, env=env)
    seen = json.loads(path.read_text())
    return Sampled(label, jobs, **{name: seen[name] for name in FIELDS})


def lines(runs: list[Sampled]) -> list[str]:
    """Return a table: microseconds of processor time a job, and those spent waiting."""
    head = " | ".join(run.label for run in runs)
    text = [
        "Where Snakemake's main thread is, in microseconds of a job: of processor time (and of "
        "wall time, which has what it waits for):",
        "",
        f"| | {head} |",
        "|---" * (len(runs) + 1) + "|",
    ]
    names = dict.fromkeys(name for run in runs for name in run.places)
    for name in sorted(names, key=lambda name: -runs[-1].places.get(name, [0, 0])[1]):
        cells = [_cell(run.places.get(name), run.jobs) for run in runs]
        text.append(f"| {name} | {' | '.join(cells)} |")
    sums = [[sum(pair[n] for pair in run.places.values()) for n in (0, 1)] for run in runs]
    cells = [_cell(total, run.jobs) for total, run in zip(sums, runs, strict=True)]
    text += [f"| all of it | {' | '.join(cells)} |"]
    others = dict.fromkeys(name for run in runs for name in run.others)
    for name in others:
        took = [run.others.get(name) for run in runs]
        cells = [_us(each, run.jobs) for each, run in zip(took, runs, strict=True)]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return text


def _cell(pair: list[float] | None, jobs: int) -> str:
    return "" if pair is None else f"{_us(pair[1], jobs)} ({_us(pair[0], jobs)})"


def _us(seconds: float | None, jobs: int) -> str:
    return "" if seconds is None else f"{1e6 * seconds / jobs:.0f}"
