"""A plan as text, and as one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool.frontends.commandline.plan.outcome import Outcome, RulePlan
from snakemake_executor_gpupool.frontends.commandline.plan.workload import Source
from snakemake_executor_gpupool.frontends.snakemake.planned import Way
from snakemake_executor_gpupool.records.progress import format_seconds
from snakemake_executor_gpupool.runtime.expected import ModelTally
from snakemake_executor_gpupool.wire.bounds import printable

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.commandline.plan.command import Plan

NOTHING = "nothing to be done"


# -- JSON ------------------------------------------------------------------------------
def as_json(plan: Plan) -> str:
    """Return the plan as one JSON object."""
    graph = plan.graph
    return json.dumps(
        {
            "jobs": len(graph.jobs),
            "ways": {way.value: count for way, count in _ways(plan).items()},
            **_outcome_json(plan.outcome),
            "simulated": any(device.simulated for device in plan.outcome.devices),
            "snakemake": {
                "graph_s": round(graph.built_s, 3),
                "turnaround_s": plan.outcome.turnaround_s,
                "turnaround_from": _turnaround_source(plan),
            },
            "checkpoints": dict(graph.checkpoints),
            "with_devices": {text: _outcome_json(each) for text, each in plan.variants.items()},
            "earlier_runs": plan.history.runs,
            "remarks": _remarks(plan),
        }
    )


def _turnaround_source(plan: Plan) -> str:
    return "guessed" if plan.outcome.turnaround_s is None else Source.HISTORY.value


def _remarks(plan: Plan) -> list[str]:
    return [*plan.graph.config.warnings, *plan.graph.remarks, *plan.remarks]


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    times = {"wall_s": outcome.wall_s, "low_s": outcome.low_s, "high_s": outcome.high_s}
    times["until_checkpoint_s"] = outcome.known_s
    known = {name: value if value is None else round(value, 3) for name, value in times.items()}
    return {
        **known,
        "unknown": outcome.unknown,
        "rules": list(map(_rule_json, outcome.rules)),
        "models": list(map(_model_json, outcome.models)),
        "devices": {
            device.name: round(outcome.busy_s.get(device.name, 0.0), 3)
            for device in outcome.devices
        },
        "counts": dict(outcome.counts),
        "merging": outcome.merging,
    }


def _rule_json(rule: RulePlan) -> dict[str, Any]:
    return {
        "rule": rule.rule,
        "way": rule.way.value,
        "jobs": rule.jobs,
        "tool": rule.tool,
        "models": sorted(rule.models),
        "items": rule.items if rule.source is not Source.UNKNOWN else None,
        "items_computed": rule.computed if rule.source is not Source.UNKNOWN else None,
        "items_from": rule.source.value if rule.source else None,
        "job_s": rule.seconds,
        "job_s_from": rule.time_source or None,
        "cannot_run": dict(rule.refused),
        "waits_in_vain": rule.waiting,
    }


def _model_json(model: ModelTally) -> dict[str, Any]:
    return {
        "model": model.name,
        "tool": model.tool,
        "loads": model.loads,
        "batches": model.batches,
        "items": model.items,
        "busy_s": round(model.busy_s, 3) if model.is_measured else None,
        "load_s": model.figures.load_s,
        "devices": sorted(model.devices),
        "measured": model.is_measured,
    }


def _ways(plan: Plan) -> Counter[Way]:
    return Counter(job.way for job in plan.graph.jobs)


# -- text ------------------------------------------------------------------------------
def as_text(plan: Plan) -> str:
    """Return the plan as lines."""
    graph, outcome = plan.graph, plan.outcome
    if not graph.jobs:
        return NOTHING
    ways = ", ".join(f"{count} {way.value}" for way, count in _ways(plan).most_common())
    lines = [f"{len(graph.jobs)} jobs: {ways}", ""]
    lines += _table(
        ("rule", "jobs", "way", "tool", "items", "computed", "from"),
        [_rule_row(rule) for rule in outcome.rules if rule.way is not Way.NOTHING],
    )
    if outcome.models:
        lines += [
            "",
            *_table(
                ("model", "loads", "batches", "of items", "on", "takes"),
                [_model_row(model) for model in outcome.models],
            ),
        ]
    lines += ["", *_time_lines(plan)]
    for text, each in plan.variants.items():
        lines.append(_variant(text, each, outcome))
    problems = [
        f"rule {rule.rule}, {_jobs(count)}: {why}"
        for rule in outcome.rules
        for why, count in rule.refused.items()
    ]
    waiting = sum(rule.waiting for rule in outcome.rules)
    if problems:
        lines += ["", "cannot run:", *(f"  {_line(problem)}" for problem in problems)]
    if waiting:
        lines.append(f"  {_jobs(waiting)} would wait for these in vain, and are not in the plan")
    lines += [f"note: {_line(remark)}" for remark in _remarks(plan)]
    return "\n".join(map(str.rstrip, lines))


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def _line(text: str) -> str:
    """Return somebody else's text as one line that no terminal obeys."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in printable(" ".join(text.split()))
    )


def _rule_row(rule: RulePlan) -> tuple[str, ...]:
    if rule.way is not Way.SERVED:
        took = "" if rule.seconds is None else f"{format_short(rule.seconds)} a job"
        return rule.rule, str(rule.jobs), rule.way.value, took, "", "", rule.time_source
    if rule.source in (None, Source.UNKNOWN):
        why = Source.UNKNOWN.value if rule.source else ""
        return rule.rule, str(rule.jobs), rule.way.value, rule.tool, "?", "?", why
    items, computed = str(rule.items), str(rule.computed)
    source = rule.source.value if rule.source else ""
    return rule.rule, str(rule.jobs), rule.way.value, rule.tool, items, computed, source


def _model_row(model: ModelTally) -> tuple[str, ...]:
    load_s, each = model.figures.load_s, model.items / model.batches if model.batches else 0.0
    takes = "no figure yet"
    if model.is_measured and load_s is not None:
        takes = f"{format_short(load_s)} to load, {format_short(model.busy_s)} in batches"
    on = ", ".join(sorted(model.devices))
    return (model.name, str(model.loads), str(model.batches), f"{each:.3g}", on, takes)


def format_short(seconds: float) -> str:
    """Return a duration, short ones with their tenths: ``0.4 s``, ``42 s``, ``3 min``."""
    return f"{seconds:.2g} s" if seconds < 10 else format_seconds(seconds)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    all_rows = [tuple(head), *(tuple(map(_line, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in all_rows
    ]


def _time_lines(plan: Plan) -> list[str]:
    outcome = plan.outcome
    if outcome.wall_s is None:
        lines = ["how long: not known"]
        if outcome.known_s is not None:
            lines = [f"how long: {_range(outcome)}, as far as the graph is known"]
        lines += [f"  {_line(why)}" for why in outcome.unknown]
        if any("no figure" in why for why in outcome.unknown):
            lines.append("  run it once: the figures are kept for the next plan")
        return lines
    busy = {
        device.name: outcome.busy_s[device.name] / outcome.run_s
        for device in outcome.devices
        if device.name in outcome.busy_s and outcome.run_s
    }
    lines = [
        f"how long: {_range(outcome)}, of which {format_short(plan.graph.built_s)} until the "
        "graph is there"
    ]
    if busy:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in sorted(busy.items()))
        lines.append(f"  busy: {shares}")
    names = {"evictions": "evictions", "offloads": "moves to host memory", "merged": "jobs merged"}
    happens = [f"{outcome.counts[n]} {name}" for n, name in names.items() if outcome.counts.get(n)]
    if happens:
        lines.append(f"  {', '.join(happens)}")
    lines += [f"  {_line(why)}" for why in outcome.merging]
    return lines


def _range(outcome: Outcome) -> str:
    wall_s = outcome.known_s if outcome.wall_s is None else outcome.wall_s
    assert wall_s is not None and outcome.low_s is not None and outcome.high_s is not None
    low, high = format_short(outcome.low_s), format_short(outcome.high_s)
    return f"{format_short(wall_s)} (from {low} to {high})"


def _variant(text: str, outcome: Outcome, base: Outcome) -> str:
    if any(device.simulated for device in outcome.devices):
        text = f"{text} (SIMULATED)"
    if outcome.wall_s is None:
        return f"with --devices {text}: not known: {'; '.join(map(_line, outcome.unknown))}"
    loads = sum(model.loads for model in outcome.models)
    line = f"with --devices {text}: {_range(outcome)}, {loads} loads"
    if base.wall_s:
        line += f", {outcome.wall_s / base.wall_s:.2f} x the time"
    return line
