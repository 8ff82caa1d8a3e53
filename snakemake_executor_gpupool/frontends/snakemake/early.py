"""What is done before Snakemake reads the workflow: the last run's processes are started.

Snakemake makes an executor's settings as soon as it has read its command line, and the executor
itself when the graph is built, a second or more later. Whether this is a call that runs a workflow
only the command line can say, which settings do not see: it is taken from the caller. Where that
is not found, as in calls of Snakemake's API, nothing is started early.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.frontends.snakemake.collector import COLLECTOR

if TYPE_CHECKING:
    from snakemake_executor_gpupool.hosts.early import EarlyProcesses

#: Options under which Snakemake does something else than running a workflow here.
_RUNS_NOTHING = (
    *("dryrun", "touch", "lint", "unlock", "summary", "detailed_summary", "archive"),
    *("list_target_rules", "list_rules", "list_changes", "list_input_changes"),
    *("list_params_changes", "list_untracked", "list_conda_envs", "print_compilation"),
    *("dag", "rulegraph", "filegraph", "d3dag", "generate_unit_tests", "cleanup_metadata"),
    *("conda_cleanup_envs", "conda_create_envs_only", "cleanup_shadow", "deploy_sources"),
    *("container_cleanup_images", "delete_all_output", "delete_temp_output"),
)
#: How far up the caller may be.
_MAX_CALLERS = 12
_begun: list[EarlyProcesses] = []


def begin(settings: Any) -> None:
    """Start what the last run of the workflow had; settings are being made. Never raises."""
    with contextlib.suppress(Exception):
        arguments = _arguments()
        if arguments is None or not runs_workflow(arguments):
            return
        if _is_wanted(settings):
            _begin(arguments)
        COLLECTOR.pass_over_imports()


def _begin(arguments: argparse.Namespace) -> None:
    from snakemake.api import resolve_snakefile

    snakefile = resolve_snakefile(arguments.snakefile, allow_missing=True)
    if snakefile is None:
        return
    early = _processes(str(snakefile), str(Path(arguments.directory or ".").absolute()))
    if early is not None:
        _begun.append(early)
        early.start(os.environ, len(os.sched_getaffinity(0)))


def take(workflow: Any, settings: Any) -> EarlyProcesses | None:
    """Return what was begun for a workflow's run, for its pool; None: nothing is early, or noted.

    The pool closes it.
    """
    early = _begun.pop() if _begun else None
    if not _is_wanted(settings):
        if early is not None:
            early.close()
        return None
    with contextlib.suppress(Exception):
        return early or _processes(str(workflow.main_snakefile), str(Path.cwd()))
    return None


def _is_wanted(settings: Any) -> bool:
    from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE

    is_plain = settings.cluster is None and settings.server in (None, "off")
    # Within a job of another run the cores are that run's.
    return is_plain and settings.early_start != "off" and LEASE_VARIABLE not in os.environ


def _processes(snakefile: str, home: str) -> EarlyProcesses | None:
    from snakemake_executor_gpupool.hosts.early import EarlyProcesses
    from snakemake_executor_gpupool.records.last_run import LastRunFile, last_run_path

    path = last_run_path(os.environ, os.path.realpath(snakefile))
    return None if path is None else EarlyProcesses(LastRunFile(path, __version__), home)


def runs_workflow(arguments: argparse.Namespace) -> bool:
    """Tell whether Snakemake was called to run a workflow, by a user and not by itself."""
    if getattr(arguments.mode, "name", "") != "DEFAULT":
        return False
    if getattr(arguments, "containerize", None) is not None:
        return False
    if getattr(arguments, "report", None) and not getattr(arguments, "report_after_run", False):
        return False
    return not any(getattr(arguments, name, None) for name in _RUNS_NOTHING)


def _arguments() -> argparse.Namespace | None:
    """Return Snakemake's command line, as its function that makes settings has it."""
    frame: Any = sys._getframe(1)
    for _ in range(_MAX_CALLERS):
        if frame is None:
            return None
        is_it = frame.f_code.co_name == "args_to_api"
        if is_it and frame.f_globals.get("__name__") == "snakemake.cli":
            found = frame.f_locals.get("args")
            return found if isinstance(found, argparse.Namespace) else None
        frame = frame.f_back
    return None
