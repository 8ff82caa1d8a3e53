"""The software environment of a served rule, and how its workers enter it.

A worker is started by gpupool, so what Snakemake would put in front of a rule's command is put
in front of the worker's: the same activation, then the environment's Python.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.settings import DeploymentMethod

from snakemake_executor_gpupool.errors import GpupoolError

#: Variables that Snakemake unsets for a rule with ``conda:``.
SEARCH_PATHS = ("R_LIBS", "PYTHONPATH", "PERLLIB", "PERL5LIB")


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
        Shell commands that enter the environment and then run ``"$@"``; empty: none.
    """

    python: str
    environment: str = ""
    activation: str = ""


def software_of(workflow: Any, job: Any, python: str) -> Software:
    """Return the software that a served job's workers run with.

    Parameters
    ----------
    python
        The interpreter of workers whose rules have no environment of their own.

    Raises
    ------
    Unservable
        The rule asks for an environment that a warm worker cannot enter.
    """
    refuse_what_cannot_be_entered(workflow, job)
    methods = workflow.deployment_settings.deployment_method
    if DeploymentMethod.CONDA not in methods or not job.conda_env:
        return Software(python)
    return conda_software(job.conda_env, python)


def refuse_what_cannot_be_entered(workflow: Any, job: Any) -> None:
    """Raise for a container or modules, in which a warm worker cannot run.

    Raises
    ------
    Unservable
        The message says what to do.
    """
    methods = workflow.deployment_settings.deployment_method
    plain = (
        f"run it as a plain GPU job, without gpupool_tool and with gpu=1 (from outside: "
        f"--set-resources {job.rule.name}:gpupool_tool=\"''\" {job.rule.name}:gpu=1)"
    )
    if job.container_img_url and DeploymentMethod.APPTAINER in methods:
        raise Unservable(
            "a rule with container: cannot be served from a warm worker under --sdm apptainer. "
            f"Give it a conda: environment instead, or {plain}"
        )
    if job.env_modules and DeploymentMethod.ENV_MODULES in methods:
        raise Unservable(
            "a rule with envmodules: cannot be served from a warm worker under --sdm env-modules. "
            f"Give it a conda: environment instead, or {plain}"
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
