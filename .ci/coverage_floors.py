"""Compare what the unit tests have run of some rooms with the floors in pyproject.toml.

``coverage_floors.py`` reads the data that ``pytest --cov`` has left, and prints a line for each
room. It fails if one is below its floor, and says so if one is far enough above to raise it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "snakemake_executor_gpupool"
#: So many points above its floor, a room has earned a higher one.
SLACK = 3.0


def percent(data: coverage.Coverage, room: str) -> float:
    """Return which part of a room's lines was run."""
    lines = missing = 0
    for path in sorted((PACKAGE / room).rglob("*.py")):
        _, statements, _, missed, _ = data.analysis2(str(path))
        lines, missing = lines + len(statements), missing + len(missed)
    return 100.0 * (lines - missing) / lines


def main() -> int:
    """Return the exit code: 0 if every room is at its floor or above."""
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gpupool"]["coverage"]
    data = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    below = []
    for room, floor in floors.items():
        reached = percent(data, room)
        print(f"coverage of {room}: {reached:.1f} % of its lines (floor: {floor} %)")
        if reached < floor:
            below.append(room)
        elif reached > floor + SLACK:
            print(f"  raise its floor in pyproject.toml to {int(reached)}")
    if below:
        print(f"coverage: {', '.join(below)} below the floor: test what is new")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
