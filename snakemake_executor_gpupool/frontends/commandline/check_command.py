"""``gpupool check``: does a tool keep its contract, and what would the pool do with its input."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.arguments import read_params
from snakemake_executor_gpupool.frontends.commandline.check.finding import Finding, Status
from snakemake_executor_gpupool.frontends.commandline.check.jobs import Subject, subject_of
from snakemake_executor_gpupool.frontends.commandline.check.plan import in_words, plan_of
from snakemake_executor_gpupool.frontends.commandline.check.probes import ask_all
from snakemake_executor_gpupool.frontends.commandline.check.scratch import scratch_directory
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.frontends.commandline.job_words import device_option
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED
from snakemake_executor_gpupool.frontends.commandline.run import captured
from snakemake_executor_gpupool.tool_api.known_params import likely_misspelt
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job


def check(options: argparse.Namespace) -> int:
    """Check the tool of the parsed command line and return the exit code."""
    device = device_option(options.device) or "cpu"
    varied = list(read_params("--vary", options.vary).items())
    search_path = list(sys.path)
    with captured(None):
        subject = subject_of(options)
        with contextlib.chdir(subject.directory), logs_elsewhere(subject.jobs) as jobs:
            tool_class = load_tool_class(subject.spec, checked=False)
            given = read_params("--param", options.param) | dict(varied)
            for misspelt in likely_misspelt(tool_class, given):
                raise ConfigError(misspelt)
            trial = Trial(
                tool_class=tool_class,
                jobs=jobs,
                spec=subject.spec,
                search_path=search_path,
                titles=subject.titles,
                device=device,
                tolerance=options.tolerance,
                varied=varied,
                from_rule=subject.from_rule,
                directories=subject.directories,
                touched=subject.touched,
            )
            findings = list(ask_all(trial))
            wrong = any(finding.status is Status.WRONG for finding in findings)
            plan = None if wrong else plan_of(trial)
    report = as_json if options.json else as_text
    print(report(trial, subject, findings, plan))
    return EXIT_FAILED if wrong else EXIT_DONE


@contextlib.contextmanager
def logs_elsewhere(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield jobs whose log files are temporary ones: a tool may write to its own."""
    with scratch_directory() as directory:

        def moved(log: str) -> str:
            return str(directory / log.replace("/", "-"))

        yield [job.replace(log=job.log.mapped(moved)) for job in jobs]


def as_json(
    trial: Trial, subject: Subject, findings: Sequence[Finding], plan: dict[str, Any] | None
) -> str:
    """Return all findings as JSON."""
    report = {
        "tool": subject.label,
        "version": str(trial.tool_class.version),
        "python": sys.version.partition(" ")[0],
        "device": trial.device,
        "tolerance": trial.tolerance,
        "jobs": list(subject.titles),
        "ok": not any(finding.status is Status.WRONG for finding in findings),
        "checks": [finding.as_json() for finding in findings],
        "warnings": trial.warnings,
        "notes": [*subject.remarks, *trial.notes],
        "plan": plan,
    }
    return json.dumps(report)


def as_text(
    trial: Trial, subject: Subject, findings: Sequence[Finding], plan: dict[str, Any] | None
) -> str:
    """Return all findings as lines of text."""
    jobs = f"{len(trial.jobs)} job{'s' * (len(trial.jobs) > 1)}"
    lines = [
        f"{subject.label}  (version {trial.tool_class.version}, on {trial.device}, {jobs})",
        f"  results are the same if numbers differ by at most {trial.tolerance:g} of the larger of "
        "their size and their scale",
    ]
    for finding in findings:
        lines += finding.as_lines()
    lines += [f"  warning: {warning}" for warning in trial.warnings]
    lines += [f"  note: {note}" for note in (*subject.remarks, *trial.notes)]
    counts = Counter(finding.status for finding in findings)
    lines.append("  " + ", ".join(f"{counts[status]} {status.value}" for status in Status))
    if plan is not None:
        lines.append(f"  plan: {in_words(plan)}")
    return "\n".join(lines)
