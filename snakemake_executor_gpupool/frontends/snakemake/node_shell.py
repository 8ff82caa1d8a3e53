"""``shell:`` jobs on a node without a Snakemake of their own there.

The lane prepares such a job and lets Snakemake build its command, as for a job of this machine:
prefix, modules, conda, container, threads. Only the process is started by the node's agent. What
that would not get right goes the other way, in a Snakemake on the node (:func:`is_plain`).

Snakemake has no seam between a shell command and its process, so its module's ``subprocess`` is
replaced by one that knows of the threads whose command is to run elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snakemake.shell import shell

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.deployment import conda_env_of
from snakemake_executor_gpupool.frontends.snakemake.translate import (
    DEFAULT_TMPDIR,
    EVALUATED_WHERE_IT_RUNS,
)
from snakemake_executor_gpupool.hosts.cluster.shell_command import ShellCommand

#: Users' way back, should a command ever need a Snakemake around it: ``always``.
SWITCH = "GPUPOOL_NODE_SNAKEMAKE"

Run = Callable[[ShellCommand], int | None]

#: Variables that Snakemake sets to a job's threads, and to its ``tmpdir``.
THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
TMPDIRS = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")
#: Variables that Snakemake takes away from commands in conda environments.
CONDA_CONFLICTS = ("R_LIBS", "PYTHONPATH", "PERLLIB", "PERL5LIB")

#: What a command may say of resources without naming the place for temporary files.
_OTHER_RESOURCES = re.compile(rf"\bresources\.(?!{EVALUATED_WHERE_IT_RUNS}\b)\w+")

_SHELL_MODULE: Any = sys.modules[shell.__module__]
_thread = threading.local()


class NotRun(Exception):
    """The node's agent did not run a command, or it is to be run once more.

    Attributes
    ----------
    code
        What the agent answered instead of an exit code.
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the node answered {code}")
        self.code = code


def wants_snakemake(env: Mapping[str, str]) -> bool:
    """Return whether a user has all jobs on nodes run in a Snakemake of their own there.

    Raises
    ------
    ConfigError
        The variable has another word.
    """
    text = env.get(SWITCH, "").strip()
    if text not in ("", "auto", "always"):
        raise ConfigError(
            f"{SWITCH} is {text!r}: 'always' has each shell job on a node run in a Snakemake of "
            "its own there; unset, or 'auto', only those that need one"
        )
    return text == "always"


def is_plain(job: Any) -> bool:
    """Return whether a job is a shell command that is the same without a Snakemake on the node."""
    if wants_snakemake(os.environ):
        return False
    if job.is_group() or job.rule.shellcmd is None or job.is_norun or job.is_template_engine:
        return False
    joins_others = job.is_pipe or job.is_service or job.group is not None
    needs_place = job.is_shadow or job.benchmark is not None
    needs_place = needs_place or getattr(job.rule.cache, "output", False)
    if joins_others or needs_place or getattr(job, "software_env", None) is not None:
        return False
    if EVALUATED_WHERE_IT_RUNS in job.rule.resources:
        raw = getattr(job.rule.resources[EVALUATED_WHERE_IT_RUNS], "raw", None)
        if raw != DEFAULT_TMPDIR:
            return False
    files = (*job.input, *job.output, *job.log)
    if any(getattr(file, "is_storage", False) for file in files):
        return False
    return not any("update" in getattr(file, "flags", {}) for file in job.output)


def run_elsewhere(run: Run, command: ShellCommand, body: Callable[[], None]) -> None:
    """Let Snakemake run a shell job in this thread, its process on a node.

    Parameters
    ----------
    run
        Runs a command on a node, and waits for its end.
    command
        What is known of it beforehand.
    body
        Runs the job.

    Raises
    ------
    NotRun
        The node was lost, is to end, or cannot run it in this way.
    """
    if not isinstance(_SHELL_MODULE.sp, _Subprocess):
        _SHELL_MODULE.sp = _Subprocess()
    remote = _Remote(run, command)
    _thread.remote = remote
    try:
        body()
    except BaseException as error:
        if remote.not_run is not None:
            raise remote.not_run from error
        raise
    finally:
        _thread.remote = None


def command_of(workflow: Any, job: Any, wait_s: float, declared: dict[str, str]) -> ShellCommand:
    """Return what is known of a job's command before Snakemake has built it.

    Parameters
    ----------
    wait_s
        How long its files may take to become visible.
    declared
        The variables that the workflow declares with ``envvars:``.
    """
    folders = {str(Path(str(file)).parent) for file in (*job.output, *job.log)}
    uses_conda = conda_env_of(workflow, job) is not None and shell.conda_block_conflicting_envvars
    has_tmpdir = job.resources.get(EVALUATED_WHERE_IT_RUNS) is not None
    return ShellCommand(
        environment=declared,
        files=(*map(str, job.input), *sorted(folders)),
        wait_s=wait_s,
        unset=CONDA_CONFLICTS if uses_conda else (),
        tmpdir=str(job.resources.get(EVALUATED_WHERE_IT_RUNS)) if has_tmpdir else "",
        names_tmpdir=has_tmpdir and _may_name_tmpdir(job),
    )


def _may_name_tmpdir(job: Any) -> bool:
    """Whether a command may have the place for temporary files in its text."""
    computes = any(callable(param) for param in job.rule.params)
    return computes or "resources" in _OTHER_RESOURCES.sub("", job.rule.shellcmd)


class _Remote:
    """The command of one job."""

    def __init__(self, run: Run, command: ShellCommand) -> None:
        self._run = run
        self._command = command
        self.not_run: NotRun | None = None

    def start(self, text: str, env: dict[str, str], executable: str) -> _Process:
        own = os.environ
        more = {name: env[name] for name in env if own.get(name) != env[name]}
        more |= {name: env[name] for name in THREADS if name in env}
        more = {name: value for name, value in more.items() if name not in TMPDIRS}
        command = dataclasses.replace(
            self._command,
            text=text,
            executable=executable,
            environment={**self._command.environment, **more},
        )
        return _Process(self, command)

    def wait(self, command: ShellCommand) -> int:
        code = self._run(command)
        if code is None or code in command.NO_EXIT_CODES:
            self.not_run = NotRun(code)
            raise self.not_run
        return code


class _Process:
    """Stands for the process on the node, as far as Snakemake's shell asks."""

    pid = -1
    stdout = None

    def __init__(self, remote: _Remote, command: ShellCommand) -> None:
        self._remote = remote
        self._command = command

    def wait(self) -> int:
        """Run it, and return its exit code."""
        return self._remote.wait(self._command)

    def kill(self) -> None:
        """Do nothing: it ends with its agent's session."""

    terminate = kill


class _Subprocess:
    """The standard library's module, but for the commands of threads that run theirs elsewhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, command: Any, **options: Any) -> Any:  # noqa: N802 - as the module has it
        """Start a process, here or there."""
        remote = getattr(_thread, "remote", None)
        if remote is None:
            return subprocess.Popen(command, **options)
        return remote.start(command, options["env"], options.get("executable") or "/bin/sh")
