"""``gpupool plan``: reads the workflow, its inputs and earlier runs, and prints the plan."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED
from snakemake_executor_gpupool.frontends.commandline.plan.assumed import assumed_devices
from snakemake_executor_gpupool.frontends.commandline.plan.foresight import (
    ForeseenJobs,
    foresee,
    sampled,
)
from snakemake_executor_gpupool.frontends.commandline.plan.outcome import Outcome, foretell
from snakemake_executor_gpupool.frontends.commandline.plan.words import as_json, as_text
from snakemake_executor_gpupool.frontends.commandline.run import captured
from snakemake_executor_gpupool.frontends.snakemake.planned import Graph
from snakemake_executor_gpupool.records.profile import Profile, profile_path
from snakemake_executor_gpupool.records.runs.files import list_runs
from snakemake_executor_gpupool.records.runs.history import History, history_of
from snakemake_executor_gpupool.records.runs.reader import read_run
from snakemake_executor_gpupool.records.runs.values import RunView

#: How many of the latest runs are looked at, and how much of them together, in bytes.
MAX_RUNS, MAX_BYTES = 5, 64 * 1024**2


@dataclass
class Plan:
    """All that is printed.

    Attributes
    ----------
    variants
        By what ``--devices`` says, what a run on these would do.
    """

    graph: Graph
    foresight: ForeseenJobs
    history: History
    outcome: Outcome
    variants: dict[str, Outcome] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def plan(options: argparse.Namespace) -> int:
    """Print the plan of the parsed command line and return the exit code."""
    with captured(None):
        made = make_plan(options.snakemake, options.devices, options.sample)
    print(as_json(made) if options.json else as_text(made))
    is_blocked = any(rule.refused for rule in made.outcome.rules)
    return EXIT_FAILED if is_blocked else EXIT_DONE


def make_plan(arguments: Sequence[str], devices: Sequence[str], sample: int) -> Plan:
    """Return the plan for arguments of ``snakemake``.

    Raises
    ------
    ConfigError
        Snakemake does not accept them, or the workflow; or ``devices`` are malformed.
    """
    graph = _graph(arguments)
    asked = sampled(graph, sample)
    foresight = foresee(graph, asked)
    profile = Profile(profile_path(os.environ))
    history = history_of_runs(graph.config.run_root)
    figures = profile.figures()
    outcome = foretell(graph, foresight, history, figures)
    variants = {
        text: foretell(
            graph, foresight, history, figures, assumed_devices(text, graph.config.devices)
        )
        for text in devices
    }
    remarks = [profile.warning] if profile.warning else []
    if foresight.is_cut:
        remarks.append("not all inputs were read in time: the others are estimated")
    return Plan(graph, foresight, history, outcome, variants, remarks)


def _graph(arguments: Sequence[str]) -> Graph:
    try:
        # Snakemake, and what it needs, takes a second to import.
        from snakemake_executor_gpupool.frontends.snakemake.graph import read_graph
        from snakemake_executor_gpupool.frontends.snakemake.graph_jobs import plain_graph
    except ImportError as error:
        raise ConfigError(f"plan needs Snakemake: {error}") from error
    return read_graph(arguments, plain_graph)


def history_of_runs(root: Path) -> History:
    """Return what the latest runs tell, as far as they fit the bounds."""
    views: list[RunView] = []
    left = MAX_BYTES
    for directory in reversed(list_runs(root)):
        try:
            left -= (directory / "events.jsonl").stat().st_size
        except OSError:
            continue
        if left < 0 or len(views) == MAX_RUNS:
            break
        views.append(read_run(directory))
    return history_of(views[::-1])
