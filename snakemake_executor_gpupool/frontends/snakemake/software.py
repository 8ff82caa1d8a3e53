"""The software environment of a served rule, and how its workers enter it.

A worker is started by gpupool, so what Snakemake would put in front of a rule's command is put
in front of the worker's: the same container, the same activation, then the environment's Python.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import GpupoolError, Uncontainable
from snakemake_executor_gpupool.frontends.snakemake.containers import (
    PYTHONS,
    SEARCH_PATHS,
    container_of,
    worker_command,
)
from snakemake_executor_gpupool.frontends.snakemake.deployment import (
    Unenterable,
    activation_of,
    conda_env_of,
    env_modules_of,
    plugin_env_of,
    python_of,
)
from snakemake_executor_gpupool.wire.requests import Container


class Unservable(GpupoolError):
    """A job cannot run as its rule asks; the message says why, and what to do."""


@dataclass(frozen=True)
class Software:
    """Where a worker's software comes from.

    Attributes
    ----------
    python
        The interpreter to start.
    environment
        The directory of the rule's own environment; empty: it has none.
    activation
        Shell commands that enter the environment and then run ``"$@"``; empty: none. With a
        container: that start a worker in it.
    container
        None: there is none.
    """

    python: str
    environment: str = ""
    activation: str = ""
    container: Container | None = None


def software_of(workflow: Any, job: Any, python: str, places: Iterable[str] = ()) -> Software:
    """Return the software that a served job's workers run with.

    The first time it takes as long as asking conda for its version, or reading an image.

    Parameters
    ----------
    python
        The interpreter of workers whose rules have no environment of their own.
    places
        Directories that a worker in a container needs beside those that the rule's own command
        would see; read only those that end in ``:ro``.

    Raises
    ------
    Unservable
        The rule asks for an environment that a warm worker cannot enter.
    """
    refuse_modules(workflow, job)
    plugged = plugin_software(job, python)
    if plugged is not None:
        return plugged
    env = conda_env_of(workflow, job)
    try:
        container = container_of(workflow, job)
        if container is not None:
            command = worker_command(workflow, container, places, env)
            address = "" if env is None else str(env.address)
            return Software(PYTHONS[0], address, command, container)
    except Uncontainable as error:
        raise Unservable(str(error)) from error
    return conda_software(env, python) if env else Software(python)


def plugin_software(job: Any, python: str) -> Software | None:
    """Return the software that a deployment plugin of Snakemake gives a job; None: none does.

    Raises
    ------
    Unservable
        A warm worker cannot enter it.
    """
    try:
        env = plugin_env_of(job)
    except Unenterable as error:
        plain = f"{job.rule.name}:gpupool_tool=\"''\" {job.rule.name}:gpu=1"
        raise Unservable(f"{error}. As a plain GPU job it runs: --set-resources {plain}") from error
    if env is None:
        return None
    prefix, own_python = python_of(env)
    chosen = str(own_python) if own_python.exists() else python
    return Software(chosen, str(prefix), activation_of(env))


def refuse_modules(workflow: Any, job: Any) -> None:
    """Raise for environment modules, in which a warm worker cannot run.

    Raises
    ------
    Unservable
        The message says what to do.
    """
    if env_modules_of(workflow, job):
        raise Unservable(
            "a rule with envmodules: cannot be served from a warm worker under --sdm env-modules. "
            "Give it a conda: environment or a container: instead, or run it as a plain GPU job, "
            "without gpupool_tool and with gpu=1 (from outside: --set-resources "
            f"{job.rule.name}:gpupool_tool=\"''\" {job.rule.name}:gpu=1)"
        )


@functools.lru_cache(maxsize=1024)
def conda_software(env: Any, python: str) -> Software:
    """Return the software of a Snakemake conda environment.

    As for a ``script:``, an environment without a Python of its own lends its programs to
    the Python that Snakemake runs under.
    """
    from snakemake.shell import shell

    prefix = conda_prefix(env)
    own_python = prefix / "bin" / "python"
    activation = env.conda.shellcmd(str(prefix), 'exec "$@"')
    if shell.conda_block_conflicting_envvars:
        activation = f"unset {' '.join(SEARCH_PATHS)}; {activation}"
    return Software(str(own_python) if own_python.exists() else python, str(prefix), activation)


def conda_prefix(env: Any) -> Path:
    """Return the directory of a conda environment, which a rule may give by name."""
    if not env.name:
        return Path(env.address).absolute()
    known = [Path(prefix) for prefix in env.conda.info.get("envs", ())]
    named = [prefix for prefix in known if prefix.name == env.name]
    return named[0] if named else Path(env.conda.prefix_path, "envs", env.name)
