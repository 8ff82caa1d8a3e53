"""Which tool is checked, and on which jobs: from the command line's words, or from a Snakefile."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.arguments import named, pairs, read_params
from snakemake_executor_gpupool.tool_api.tool_spec import resolve_spec
from snakemake_executor_gpupool.tool_api.values import Job, Named

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.snakemake.rule_jobs import RuleJobs

#: How many jobs of a rule are taken.
MAX_JOBS = 8


@dataclass(frozen=True)
class Subject:
    """A tool and the jobs to try it on.

    Attributes
    ----------
    label, spec
        The tool as it was named, and resolved.
    directory
        Where relative paths of the jobs start.
    from_rule, directories, touched
        As :class:`.trial.Trial` has them.
    """

    label: str
    spec: str
    jobs: Sequence[Job]
    titles: Sequence[str]
    directory: str
    from_rule: bool = False
    directories: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    remarks: Sequence[str] = ()


def subject_of(options: argparse.Namespace) -> Subject:
    """Return what the options name.

    Raises
    ------
    ConfigError
        Something is missing, is not there, or does not fit together.
    UnknownTool
        There is no such tool.
    """
    if options.rule:
        return _from_rule(options)
    for name in ("snakefile", "configfile", "config", "directory"):
        if getattr(options, name):
            raise ConfigError(f"--{name} is for a job of a workflow: name its rule, --rule NAME")
    if not options.tool:
        raise ConfigError("name a tool, or a rule of a workflow: --rule NAME")
    jobs = _jobs_from_words(options)
    titles = [f"job {number}" for number in range(1, len(jobs) + 1)]
    titles = titles if len(jobs) > 1 else ["the job"]
    return Subject(options.tool, resolve_spec(options.tool), jobs, titles, str(Path.cwd()))


# -- from words ----------------------------------------------------------------------
def _jobs_from_words(options: argparse.Namespace) -> list[Job]:
    """Return one job for each --input."""
    inputs = [Named.from_pairs(pairs([words])) for words in options.input] or [Named()]
    outputs = [Named.from_pairs(pairs([words])) for words in options.output] or [Named()]
    _check_inputs(inputs)
    params = read_params("--param", options.param)
    wildcards = dict(named("--wildcard", options.wildcard))
    each_output = _for_each("--output", outputs, len(inputs))
    return [
        Job(
            input=given,
            output=each_output[number],
            params=params,
            wildcards={
                name: _for_each(f"--wildcard {name}", value, len(inputs))[number]
                for name, value in wildcards.items()
            },
        )
        for number, given in enumerate(inputs)
    ]


def _check_inputs(inputs: Sequence[Named]) -> None:
    names = {tuple(given.keys()) for given in inputs}
    if len(names) > 1:
        shown = "; ".join(", ".join(some) or "no names" for some in sorted(names))
        raise ConfigError(
            f"each --input is one job, and jobs of one rule have the same names, not {shown}: give "
            "all inputs of a job after one --input, --input K=PATH L=PATH"
        )
    # os.path: also reports a link whose target does not exist.
    missing = [path for given in inputs for path in given if not os.path.exists(path)]  # noqa: PTH110
    if missing:
        raise ConfigError(
            f"there is no file {', '.join(missing)}: --input takes files that are there, small "
            "ones with items of different sizes"
        )


def _for_each(option: str, values: Any, count: int) -> list[Any]:
    """Return one value for each job: as many as there are jobs, or one for all."""
    values = values if isinstance(values, list) and not isinstance(values, Named) else [values]
    if len(values) not in (1, count):
        raise ConfigError(
            f"{option} is given {len(values)} times, and there are {count} jobs (one for each "
            "--input): give it once, or once for each"
        )
    return values if len(values) == count else list(values) * count


# -- from a workflow -----------------------------------------------------------------
def _from_rule(options: argparse.Namespace) -> Subject:
    if options.input or options.output:
        raise ConfigError(
            "--input and --output are not for a job of a rule, which has its own; choose the job "
            "by its wildcards, --wildcard K=V"
        )
    own_spec = resolve_spec(options.tool) if options.tool else ""
    read = _read_rule(options)
    params = read_params("--param", options.param)
    specs = [own_spec or job.spec for job in read.jobs]
    if not specs[0]:
        raise ConfigError(
            f"rule {options.rule} names no gpupool_tool; name the tool to check: "
            f"gpupool check TOOL --rule {options.rule}"
        )
    taken = [job for job, spec in zip(read.jobs, specs, strict=True) if spec == specs[0]]
    remarks = list(read.remarks)
    if len(taken) < len(specs):
        remarks.append(f"only jobs of the tool {specs[0]} were taken; others name another one")
    return Subject(
        label=options.tool or specs[0],
        spec=specs[0],
        jobs=[_received(job.job, params) for job in taken],
        titles=[job.title for job in taken],
        directory=read.directory,
        from_rule=True,
        directories=frozenset().union(*(job.directories for job in taken)),
        touched=frozenset().union(*(job.touched for job in taken)),
        remarks=remarks,
    )


def _read_rule(options: argparse.Namespace) -> RuleJobs:
    try:
        # Snakemake, and what it needs, takes a second to import.
        from snakemake_executor_gpupool.frontends.snakemake.rule_jobs import (
            WorkflowSource,
            read_rule,
        )
    except ImportError as error:
        raise ConfigError(f"--rule needs Snakemake: {error}") from error
    wildcards = {
        name: value if isinstance(value, list) else [value]
        for name, value in named("--wildcard", options.wildcard)
    }
    source = WorkflowSource(
        options.snakefile, options.configfile, options.config, options.directory
    )
    return read_rule(options.rule, source, wildcards, MAX_JOBS)


def _received(job: Job, params: Mapping[str, Any]) -> Job:
    """Return a job as a process of the pool receives it, with some params changed."""
    try:
        received: Job = pickle.loads(pickle.dumps(job))
    except Exception as error:
        raise ConfigError(f"{job}: its params cannot reach a worker: {error}") from error
    return received.replace(params={**received.params, **params})
