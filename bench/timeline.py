"""Where gpupool's time went, read from the files that every run of it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Runs

LATEST = Path(".snakemake", "gpupool", "latest")
#: The events that begin a phase, and the fields that its end shares with them.
BEGINS = {
    "worker_started": ("worker",),
    "load_sent": ("worker",),
    "model_loaded": ("worker",),
    "read_sent": ("worker", "job_id"),
    "write_sent": ("worker", "job_id"),
    "publish_sent": ("worker", "job_id"),
    "batch_sent": ("worker", "batch"),
}
#: By the event that ends them, phases and the events that began them.
ENDS = {
    "load_sent": {"start of model workers": "worker_started"},
    "model_loaded": {"import and load": "load_sent"},
    "batch_sent": {"gather (a loaded worker waits for its first batch)": "model_loaded"},
    "batch_done": {"infer": "batch_sent"},
    "file_done": {"read": "read_sent", "write": "write_sent", "publish": "publish_sent"},
}


@dataclass
class Phase:
    """When something was going on, in seconds since the command started."""

    name: str
    from_s: float
    to_s: float
    #: In all processes that did it; a batch that waits behind another counts while it runs.
    work_s: float
    times: int = 1

    def __str__(self) -> str:
        return (
            f"| {self.name} | {self.times} | {self.from_s:.2f} | {self.to_s:.2f} "
            f"| {self.work_s:.2f} |"
        )


class Spans:
    """Spans of time by phase, gathered from events."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, name: str, from_s: float, to_s: float, work_s: float | None = None) -> None:
        """Take one in; ``work_s`` is less than its length if part of it was spent waiting."""
        work_s = to_s - from_s if work_s is None else work_s
        self._found[name].append((from_s, to_s, work_s))

    def phases(self) -> list[Phase]:
        """Return them, in order of their beginnings."""
        phases = [
            Phase(
                name,
                min(span[0] for span in spans),
                max(span[1] for span in spans),
                sum(span[2] for span in spans),
                len(spans),
            )
            for name, spans in self._found.items()
        ]
        return sorted(phases, key=lambda phase: phase.from_s)


def summary(runs: Runs) -> dict[str, Any]:
    """Return the latest run's ``summary.json``; empty where there is none."""
    path = _latest(runs) / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def events(runs: Runs) -> list[dict[str, Any]]:
    """Return what happened in the latest run, with ``after_s``: since the command started."""
    path = _latest(runs) / "events.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return [event | {"after_s": event["time_s"] - runs.started_s} for event in found]


def phases(happened: Iterable[dict[str, Any]], wall_s: float) -> list[Phase]:
    """Return where the time of a run went: Snakemake's own, files, models."""
    spans, since = Spans(), {}
    last_done_s = None
    for event in happened:
        kind, now_s = event["event"], event["after_s"]
        if kind == "run_started":
            spans.add("Snakemake until the pool opens", 0.0, now_s)
        last_done_s = now_s if kind == "job_done" else last_done_s
        for name, opener in ENDS.get(kind, {}).items():
            from_s = since.pop((opener, _key(event, opener)), None)
            if from_s is not None:
                spans.add(name, from_s, now_s, event.get("seconds") if name == "infer" else None)
        if kind in BEGINS:
            since[kind, _key(event, kind)] = now_s
    if last_done_s is not None:
        spans.add("Snakemake after the last job", last_done_s, wall_s)
    return spans.phases()


def _key(event: dict[str, Any], opener: str) -> tuple[Any, ...]:
    return tuple(event.get(field) for field in BEGINS[opener])


def import_s(modules: str) -> float:
    """Return what importing modules takes a new process, beyond its start."""
    walls_s = []
    for code in ("pass", f"import {modules}"):
        started_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        walls_s.append(time.perf_counter() - started_s)
    return walls_s[1] - walls_s[0]


def lines(runs: Runs, modules: str = "") -> list[str]:
    """Return a Markdown account of the latest run; empty where it left no files.

    Parameters
    ----------
    runs
        gpupool's runs; the last one is told.
    modules
        What its workers import, to be timed by itself, as ``"torch, esm"``.
    """
    figures, happened = summary(runs), events(runs)
    if not figures and not happened:
        return []
    wall_s = runs.walls_s[-1]
    text = [f"Where the time of gpupool's last run went ({wall_s:.2f} s from start to exit):", ""]
    text += ["| phase | times | from, s | to, s | seconds in all |", "|---|---|---|---|---|"]
    text += [*map(str, phases(happened, wall_s)), ""]
    if modules:
        text.append(f"- importing {modules} alone takes {import_s(modules):.2f} s a process")
    return text + [_device_line(name, each, happened) for name, each in _devices(figures)]


def _latest(runs: Runs) -> Path:
    return (runs.directory or Path()) / LATEST


def _devices(figures: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return list(figures.get("devices", {}).items())


def _device_line(name: str, device: dict[str, float], happened: list[dict[str, Any]]) -> str:
    """Say how long a device idled while there was a model to run and work for it."""
    loaded_s = min((e["after_s"] for e in happened if e["event"] == "model_loaded"), default=0.0)
    last_s = max((e["after_s"] for e in happened if e["event"] == "batch_done"), default=0.0)
    idle_s = last_s - loaded_s - device["busy_s"]
    return (
        f"- {name}: busy {device['busy_s']:.2f} s, idle {idle_s:.2f} s "
        f"from the first loaded model to the last batch"
    )
