"""``gpupool check``: does a tool keep its contract, and what would the pool make of its input."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import traceback
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check import probes
from snakemake_executor_gpupool.frontends.commandline.check.plan import in_words, plan_of
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.frontends.commandline.check.writing import writing
from snakemake_executor_gpupool.frontends.commandline.main import EXIT_DONE, EXIT_FAILED
from snakemake_executor_gpupool.frontends.commandline.run import (
    build_job,
    captured,
    check_inputs,
    device_option,
    named,
    parsed,
)
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class, resolve_spec
from snakemake_executor_gpupool.tool_api.values import InputError

#: In this order: what a later one takes for granted, an earlier one has asked.
PROBES: tuple[probes.Probe, ...] = (
    probes.imports,
    probes.reading,
    probes.repeating,
    probes.reloading,
    probes.company,
    probes.keys,
    probes.params,
    probes.moving,
    probes.results,
    writing,
)
#: After a problem here, what follows would only repeat it.
DECISIVE = (probes.reading, probes.repeating, probes.reloading, probes.results)


def check(options: argparse.Namespace) -> int:
    """Check the tool of the parsed command line and return the exit code."""
    job = build_job(options)
    device = device_option(options.device) or "cpu"
    spec = resolve_spec(options.tool)
    with captured(None):
        tool_class = load_tool_class(spec)
        varied = [
            *((name, parsed(value)) for name, value in named("--vary", options.vary)),
            # A rule that gives a param differs in it from one that does not.
            *(
                (name, default)
                for name, default in tool_class.defaults.items()
                if name not in tool_class.reload_on and job.params.get(name, default) != default
            ),
        ]
        trial = Trial(tool_class, job, spec, device, options.tolerance, varied)
        found = run_probes(trial)
        plan = plan_of(trial) if all(ok for _, ok, _ in found) else None
    ok = all(ok for _, ok, _ in found)
    if options.json:
        print(json.dumps(as_json(trial, options.tool, found, plan)))
    else:
        print(as_text(trial, options.tool, found, plan))
    return EXIT_DONE if ok else EXIT_FAILED


Found = tuple[str, bool, list[str]]


def run_probes(trial: Trial) -> list[Found]:
    """Return (what was asked, whether it holds, what is wrong) of each probe that was made."""
    found: list[Found] = []
    for probe in PROBES:
        problems: list[str] = []
        broken = False
        try:
            if probe is probes.imports:
                check_inputs(trial.job)
            problems += probe(trial)
        except InputError as error:
            problems.append(f"it refuses this input: {error}")
            broken = True
        except Exception as error:
            problems.append(f"{where(error, trial)}{type(error).__name__}: {error}")
            broken = True
        question = inspect.getdoc(probe) or probe.__name__
        found.append((question.rstrip("."), not problems, problems))
        if broken or (problems and probe in DECISIVE):
            break
    return found


def where(error: BaseException, trial: Trial) -> str:
    """Say in which method and line of the tool's own file an error was raised; else nothing."""
    file = inspect.getfile(trial.tool_class)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{frames[0].name}(), line {frames[-1].lineno}: " if frames else ""


def as_json(
    trial: Trial, tool: str, found: list[Found], plan: dict[str, Any] | None
) -> dict[str, Any]:
    """Return all that was found as plain values."""
    return {
        "tool": tool,
        "version": str(trial.tool_class.version),
        "python": sys.version.partition(" ")[0],
        "device": trial.device,
        "ok": all(ok for _, ok, _ in found),
        "checks": [
            {"check": question, "ok": ok, "problems": problems} for question, ok, problems in found
        ],
        "notes": trial.notes,
        "plan": plan,
    }


def as_text(trial: Trial, tool: str, found: list[Found], plan: dict[str, Any] | None) -> str:
    """Return all that was found as lines."""
    lines = [f"{tool}  (version {trial.tool_class.version}, on {trial.device})"]
    for question, ok, problems in found:
        lines.append(f"  {'ok ' if ok else 'BAD'} {question}")
        lines += [f"      {problem}" for problem in problems]
    if len(found) < len(PROBES):
        lines.append(f"  ... and {len(PROBES) - len(found)} more checks, once this holds")
    lines += [f"  note: {note}" for note in trial.notes]
    if plan is not None:
        lines.append(f"  plan: {in_words(plan)}")
    return "\n".join(lines)
