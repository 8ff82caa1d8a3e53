"""Where gpupool's time went, read from the files that every run of it leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Runs

LATEST = Path(".snakemake", "gpupool", "latest")


@dataclass
class Moments:
    """When events of one kind happened, in seconds since the command started."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    busy_s: float = 0.0


def summary(runs: Runs) -> dict[str, Any]:
    """Return the latest run's ``summary.json``; empty where there is none."""
    path = _latest(runs) / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def events(runs: Runs) -> dict[str, Moments]:
    """Return what happened in the latest run, by kind of event, in order of first occurrence."""
    path = _latest(runs) / "events.jsonl"
    found: dict[str, Moments] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        event = json.loads(line)
        after_s = event["time_s"] - runs.started_s
        moments = found.setdefault(event["event"], Moments(first_s=after_s))
        moments.count += 1
        moments.last_s = after_s
        moments.busy_s += float(event.get("seconds", 0.0))
    return found


def lines(runs: Runs) -> list[str]:
    """Return a Markdown account of the latest run; empty where it left no files."""
    figures, moments = summary(runs), events(runs)
    if not figures and not moments:
        return []
    wall_s = runs.walls_s[-1]
    text = [f"Where the time of gpupool's last run went ({wall_s:.2f} s from start to exit):", ""]
    text += ["| event | times | first, s | last, s | seconds in all |", "|---|---|---|---|---|"]
    text += [_row(name, moment) for name, moment in moments.items()]
    text += [f"| (exit of the command) | 1 | {wall_s:.2f} | {wall_s:.2f} | |", ""]
    return text + [_device_line(name, each, figures) for name, each in _devices(figures)]


def _latest(runs: Runs) -> Path:
    return (runs.directory or Path()) / LATEST


def _row(name: str, moments: Moments) -> str:
    busy = f"{moments.busy_s:.2f}" if moments.busy_s else ""
    return f"| {name} | {moments.count} | {moments.first_s:.2f} | {moments.last_s:.2f} | {busy} |"


def _devices(figures: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return list(figures.get("devices", {}).items())


def _device_line(name: str, device: dict[str, float], figures: dict[str, Any]) -> str:
    pool_s = figures["wall_s"]
    share = device["busy_s"] / pool_s if pool_s else 0.0
    return f"- {name}: busy {device['busy_s']:.2f} s of the pool's {pool_s:.2f} s ({share:.0%})"
