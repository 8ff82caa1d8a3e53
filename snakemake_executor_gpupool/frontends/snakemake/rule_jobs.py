"""The jobs of one rule of a workflow as plain values, read as a dry run would; nothing is run."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, GpupoolError
from snakemake_executor_gpupool.frontends.snakemake.deployment import has_environment
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    evaluate_here,
    plain_job,
    title,
    tool_ref,
    tool_spec,
)
from snakemake_executor_gpupool.tool_api.values import Job

#: How many missing inputs a message names.
MAX_NAMED = 3


@dataclass(frozen=True)
class RuleJob:
    """One job of a rule.

    Attributes
    ----------
    spec
        The tool that the rule names, its path absolute; empty: it names none.
    directories
        The outputs that are a ``directory()``.
    touched
        The outputs that Snakemake makes itself, with ``touch()``.
    """

    job: Job
    title: str
    spec: str
    directories: frozenset[str]
    touched: frozenset[str]


@dataclass(frozen=True)
class RuleJobs:
    """The jobs of a rule whose inputs are there.

    Attributes
    ----------
    directory
        What relative paths start from: the workflow's working directory.
    remarks
        Notes for the user: which jobs were left out, and why.
    """

    jobs: Sequence[RuleJob]
    directory: str
    remarks: Sequence[str]


@dataclass(frozen=True)
class WorkflowSource:
    """Which workflow to read; the fields are those options of ``snakemake``."""

    snakefile: str | None = None
    configfiles: Sequence[str] = ()
    config: Sequence[str] = ()
    directory: str | None = None


def read_rule(
    name: str, source: WorkflowSource, wildcards: Mapping[str, Sequence[str]], max_jobs: int
) -> RuleJobs:
    """Return some jobs of a rule, spread evenly over all whose inputs exist.

    Parameters
    ----------
    wildcards
        Values for each wildcard; jobs of all combinations are taken. Empty: the jobs that the
        workflow's first rule needs.

    Raises
    ------
    ConfigError
        The workflow cannot be read, has no such rule, or none of the rule's jobs can be taken.
        The message says what to do.
    """
    with _opened(source) as workflow_api:
        workflow = workflow_api._workflow
        # The tool's own file may be among the sources fetched into it.
        atexit.register(workflow.sourcecache.runtime_cache.cleanup)
        rule = _rule(workflow, name)
        jobs = _jobs(workflow_api, workflow, rule, _targets(rule, wildcards))
        there, remarks = _with_inputs(rule, jobs)
        taken = _spread(there, max_jobs)
        if len(taken) < len(there):
            remarks.append(f"{len(taken)} of the {len(there)} jobs of rule {name} were taken")
        if has_environment(rule):
            remarks.append(
                f"rule {name} has an environment of its own; the tool was checked under this "
                f"Python ({sys.executable}) instead"
            )
        if getattr(rule, "container_img", None):
            remarks.append(
                f"rule {name} has a container:; the tool was checked outside of it, under this "
                f"Python ({sys.executable})"
            )
        return RuleJobs([_plain(workflow, job) for job in taken], str(Path.cwd()), remarks)


# -- the workflow --------------------------------------------------------------------
@contextlib.contextmanager
def _opened(source: WorkflowSource) -> Iterator[Any]:
    """Yield Snakemake's view of a workflow; restore this process afterwards."""
    from snakemake.api import SnakemakeApi
    from snakemake.resources import Resources
    from snakemake.settings.types import OutputSettings, Quietness, ResourceSettings

    logger = logging.getLogger("snakemake.logging")
    kept = list(sys.path), Path.cwd(), list(logger.handlers)
    try:
        with SnakemakeApi(
            OutputSettings(quiet={Quietness.ALL}, enable_file_logging=False)
        ) as snakemake:
            yield snakemake.workflow(
                # As under gpupool's executor: jobs get all of Snakemake's default resources.
                ResourceSettings(cores=os.cpu_count(), default_resources=Resources.default("full")),
                config_settings=_config(source),
                snakefile=Path(source.snakefile) if source.snakefile else None,
                workdir=Path(source.directory) if source.directory else None,
            )
    except GpupoolError:
        raise
    except (Exception, SystemExit) as error:
        where = source.snakefile or "the workflow here"
        raise ConfigError(f"{where} cannot be read: {_said(error)}") from error
    finally:
        sys.path[:], (directory, logger.handlers) = kept[0], kept[1:]
        os.chdir(directory)


def _config(source: WorkflowSource) -> Any:
    from snakemake.cli import parse_config
    from snakemake.settings.types import ConfigSettings

    return ConfigSettings(
        config=parse_config(source.config), configfiles=[Path(p) for p in source.configfiles]
    )


def _said(error: BaseException) -> str:
    text = str(error).strip()
    kind = type(error).__name__
    if kind == "MissingInputException":
        files = ", ".join(text.rpartition("affected files:")[2].split())
        return f"{files} is missing, and no rule makes it"
    return text if text and kind.endswith("Exception") else f"{kind}: {text}"


def _rule(workflow: Any, name: str) -> Any:
    names = [rule.name for rule in workflow.rules]
    if name in names:
        return workflow.get_rule(name)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"there is no rule {name!r}.{hint} Rules: {', '.join(sorted(names))}")


# -- its jobs ------------------------------------------------------------------------
def _targets(rule: Any, wildcards: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return the wildcards of each requested job."""
    if not wildcards:
        return [] if rule.has_wildcards() else [{}]
    known = sorted(rule.wildcard_names)
    missing = sorted(set(known) - set(wildcards))
    unknown = sorted(set(wildcards) - set(known))
    if unknown:
        has = f"its wildcards are {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"rule {rule.name} has no wildcard {', '.join(unknown)}; {has}")
    if missing:
        options = " ".join(f"{name}=VALUE" for name in missing)
        raise ConfigError(
            f"rule {rule.name} also has the wildcard {', '.join(missing)}: "
            f"add it, --wildcard {options}"
        )
    values = itertools.product(*(wildcards[name] for name in known))
    return [dict(zip(known, combination, strict=True)) for combination in values]


def _jobs(
    workflow_api: Any, workflow: Any, rule: Any, targets: Sequence[Mapping[str, str]]
) -> list[Any]:
    """Return the rule's jobs, in the order of their outputs."""
    from snakemake.settings.types import DAGSettings
    from snakemake_interface_executor_plugins.utils import TargetSpec

    specs = frozenset(TargetSpec(rule.name, _Frozen(target)) for target in targets)
    workflow_api.dag(DAGSettings(target_jobs=specs))
    workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True, nolock=True)
    workflow._build_dag()
    jobs = [job for job in workflow.dag.jobs if job.rule.name == rule.name]
    if targets:
        jobs = [job for job in jobs if dict(job.wildcards_dict) in map(dict, targets)]
    if not jobs:
        names = " ".join(f"{name}=VALUE" for name in sorted(rule.wildcard_names))
        raise ConfigError(
            f"the workflow's first rule needs no job of rule {rule.name}; name one by its "
            f"wildcards: --wildcard {names}"
        )
    return sorted(jobs, key=lambda job: (list(map(str, job.output)), title(job)))


class _Frozen(dict):  # type: ignore[type-arg]  # of wildcards
    """A hashable mapping."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _with_inputs(rule: Any, jobs: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return the jobs whose inputs exist, and a remark about the others.

    Raises
    ------
    ConfigError
        There are none.
    """
    missing = {job: [str(f) for f in job.input if not os.path.exists(f)] for job in jobs}  # noqa: PTH110
    there = [job for job in jobs if not missing[job]]
    absent = sorted({path for paths in missing.values() for path in paths})
    named = ", ".join(absent[:MAX_NAMED]) + (", ..." if len(absent) > MAX_NAMED else "")
    if not there:
        raise ConfigError(
            f"no job of rule {rule.name} has its inputs yet: {named} "
            f"{'is' if len(absent) == 1 else 'are'} missing; create them first, for example with "
            f"snakemake {absent[0]}"
        )
    left_out = len(jobs) - len(there)
    if not left_out:
        return there, []
    return there, [
        f"{left_out} of the {len(jobs)} jobs of rule {rule.name} left out: their inputs do not "
        f"exist yet ({named})"
    ]


def _spread(jobs: Sequence[Any], most: int) -> list[Any]:
    if len(jobs) <= most:
        return list(jobs)
    step = (len(jobs) - 1) / max(most - 1, 1)
    return [jobs[round(step * number)] for number in range(most)]


def _plain(workflow: Any, job: Any) -> RuleJob:
    evaluate_here(job)
    try:
        spec = tool_ref(workflow, job, sys.executable).spec if tool_spec(job) else ""
    except GpupoolError as error:
        raise ConfigError(f"{title(job)}: {error}") from error
    return RuleJob(
        plain_job(job), title(job), spec, _flagged(job, "directory"), _flagged(job, "touch")
    )


def _flagged(job: Any, flag: str) -> frozenset[str]:
    from snakemake.io import is_flagged

    return frozenset(str(file) for file in job.output if is_flagged(file, flag))
