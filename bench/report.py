"""Tables, ratios and verdicts, as Markdown that goes into the docs as it is."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Runs, end_on_sigterm, limit_cores, machine


@dataclass(frozen=True)
class Target:
    """A ratio of two times and the bound it is held to."""

    label: str
    ratio: float
    bound: float

    @property
    def reached(self) -> bool:
        """Say whether the ratio keeps to the bound."""
        return self.ratio <= self.bound

    def __str__(self) -> str:
        verdict = "PASS" if self.reached else "FAIL"
        return f"- {verdict}: {self.label} = {self.ratio:.3f} (to reach: <= {self.bound:g})"


def facts_lines(facts: dict[str, str]) -> list[str]:
    """Return one line per fact."""
    return [f"- {name}: {value}" for name, value in facts.items()]


def begin(room: Path, cores: int) -> dict[str, str]:
    """Empty a bench's directory, keep it to so many cores, and print the machine's facts.

    Returns
    -------
    dict
        The facts.
    """
    end_on_sigterm()
    limit_cores(cores)
    shutil.rmtree(room, ignore_errors=True)
    facts = machine()
    print("\n".join(facts_lines(facts)), flush=True)
    return facts


def table(rivals: Iterable[Runs]) -> list[str]:
    """Return a row per rival that ran."""
    rows = ["| rival | median, s | lowest | highest | processor time, s | runs |"]
    rows.append("|---|---|---|---|---|---|")
    return rows + [_row(runs) for runs in rivals if runs.walls_s]


def _row(runs: Runs) -> str:
    walls = f"{runs.median_s:.2f} | {min(runs.walls_s):.2f} | {max(runs.walls_s):.2f}"
    processor_s = statistics.median(runs.cpus_s)
    return f"| {runs.label} | {walls} | {processor_s:.1f} | {len(runs.walls_s)} |"


def write_json(
    path: Path,
    facts: dict[str, str],
    rivals: Iterable[Runs],
    targets: Iterable[Target],
    **more: Any,
) -> None:
    """Write everything that was measured."""
    document = {
        "machine": facts,
        "rivals": [_plain(runs) for runs in rivals if runs.walls_s],
        "targets": [vars(target) | {"reached": target.reached} for target in targets],
        **more,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _plain(runs: Runs) -> dict[str, Any]:
    times = {"walls_s": runs.walls_s, "processor_s": runs.cpus_s}
    return {"label": runs.label, "median_s": runs.median_s, **times}
