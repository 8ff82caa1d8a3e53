"""What is done before Snakemake reads the workflow: the last run's processes are started.

Snakemake imports the executor's plugin among its own modules, where its command line can only be
guessed (:mod:`.guess`); it makes an executor's settings as soon as it has read its command line,
and the executor itself when the graph is built, a second or more later. Whether this is a call that
runs a workflow only the command line can say, which settings do not see: it is taken from the
caller. Where that is not found, as in calls of Snakemake's API, nothing is started early.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.frontends.snakemake.collector import COLLECTOR
from snakemake_executor_gpupool.frontends.snakemake.guess import (
    RUNS_NOTHING,
    guessed_call,
    text_of,
)

if TYPE_CHECKING:
    from snakemake_executor_gpupool.hosts.early import EarlyProcesses

#: How far up the caller may be.
_MAX_CALLERS = 12
_begun: list[EarlyProcesses] = []
#: What was begun before Snakemake had read its command line: for which Snakefile and directory.
_guessed: list[tuple[tuple[str, str], EarlyProcesses]] = []


def begin_at_import() -> None:
    """Start what the last run had if Snakemake's program is just being imported. Never raises.

    :func:`begin` finds out whether that was right.
    """
    with contextlib.suppress(Exception):
        spec = getattr(sys.modules.get("snakemake.cli"), "__spec__", None)
        if not getattr(spec, "_initializing", False) or LEASE_VARIABLE in os.environ:
            return
        call = guessed_call(sys.argv[1:], os.environ, text_of)
        if call is None:
            return
        from snakemake.common import SNAKEFILE_CHOICES

        found = (str(path) for path in SNAKEFILE_CHOICES if path.exists())
        snakefile = call.snakefile or next(found, "")
        place = snakefile, str(Path(call.directory or ".").absolute())
        early = _processes(*place) if snakefile else None
        if early is not None:
            _guessed.append((place, early))
            early.start(os.environ, len(os.sched_getaffinity(0)))


def begin(settings: Any) -> None:
    """Start what the last run of the workflow had; settings are being made. Never raises."""
    with contextlib.suppress(Exception):
        arguments = _arguments()
        if arguments is None or not runs_workflow(arguments):
            _give_up_guesses()
            return
        if _is_wanted(settings):
            _begin(arguments)
        _give_up_guesses()
        COLLECTOR.pass_over_imports()


def _give_up_guesses() -> None:
    while _guessed:
        _guessed.pop()[1].close()


def _begin(arguments: argparse.Namespace) -> None:
    from snakemake.api import resolve_snakefile

    snakefile = resolve_snakefile(arguments.snakefile, allow_missing=True)
    if snakefile is None:
        return
    place = str(snakefile), str(Path(arguments.directory or ".").absolute())
    for guess in _guessed:
        if guess[0] == place:
            _guessed.remove(guess)
            _begun.append(guess[1])
            return
    early = _processes(*place)
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
    return not any(getattr(arguments, name, None) for name in RUNS_NOTHING)


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
