"""What Snakemake says of a rule's software environment: the only module that knows how it says so.

Up to Snakemake 9, conda, containers and modules are in its core: ``--sdm`` names a
``DeploymentMethod``, and a job has ``conda_env``, ``container_img_url`` and ``env_modules``. Then
they become plugins (snakemake#3339), with ``software:`` in a rule beside the old keywords, and a
job has a ``software_env``, which puts its activation in front of a command and knows its own hash.
What is asked for here works with either; what of the plugins cannot be entered is refused.

When that Snakemake is out: run ``make compat`` with it, and let workers enter containers by the
plugin's ``decorate_shellcmd`` as well (docs/compatibility.md).
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import GpupoolError

try:
    from snakemake_interface_executor_plugins.settings import DeploymentMethod
except ImportError:  # the plugins' names take its place

    class DeploymentMethod(enum.Enum):  # type: ignore[no-redef]
        """The methods that were in Snakemake's core; none of them is in use."""

        CONDA = "conda"
        APPTAINER = "apptainer"
        ENV_MODULES = "env-modules"


__all__ = [
    "DeploymentMethod",
    "Unenterable",
    "activation_of",
    "conda_env_of",
    "container_image_of",
    "env_modules_of",
    "environment_key",
    "has_environment",
    "plugin_env_of",
    "python_of",
]

#: The kind of plugin whose environments are directories that hold a Python.
CONDA_PLUGIN = "snakemake_software_deployment_plugin_conda"


class Unenterable(GpupoolError):
    """A plugin's environment that a warm worker cannot enter."""


def _uses(workflow: Any, method: DeploymentMethod) -> bool:
    return method in getattr(workflow.deployment_settings, "deployment_method", ())


def conda_env_of(workflow: Any, job: Any) -> Any:
    """Return the core's conda environment that a job runs in; None: it has none."""
    return getattr(job, "conda_env", None) if _uses(workflow, DeploymentMethod.CONDA) else None


def container_image_of(workflow: Any, job: Any) -> str | None:
    """Return the image that the core runs a job in; None: it has none."""
    if not _uses(workflow, DeploymentMethod.APPTAINER):
        return None
    return getattr(job, "container_img_url", None) or None


def env_modules_of(workflow: Any, job: Any) -> Any:
    """Return the environment modules that the core loads for a job; None: it loads none."""
    if not _uses(workflow, DeploymentMethod.ENV_MODULES):
        return None
    return getattr(job, "env_modules", None) or None


def environment_key(job: Any) -> Any:
    """Return what tells the software environments of a rule's jobs apart."""
    return getattr(job, "conda_env_spec", None) or getattr(job, "software_env_spec", None)


def has_environment(rule: Any) -> bool:
    """Return whether a rule declares a software environment of conda's, or of any plugin's."""
    return bool(getattr(rule, "conda_env", None) or getattr(rule, "software_env_spec", None))


# -- environments of plugins ---------------------------------------------------------------
def plugin_env_of(job: Any) -> Any:
    """Return the environment that a software deployment plugin gives a job; None: none does.

    Raises
    ------
    Unenterable
        It is of a kind that a warm worker cannot enter.
    """
    env = getattr(job, "software_env", None)
    if env is None:
        return None
    kind = type(env).__module__.partition(".")[0]
    if kind == CONDA_PLUGIN and env.within is None:
        return env
    within = "" if env.within is None else f" within {env.within.spec}"
    raise Unenterable(
        f"a rule whose software comes from {env.spec}{within} (plugin {kind}) cannot be served "
        "from a warm worker: of Snakemake's software deployment plugins, workers enter "
        "environments of conda alone"
    )


def activation_of(env: Any) -> str:
    """Return the shell commands that enter a plugin's environment and then run ``"$@"``."""
    return str(env.managed_decorate_shellcmd('exec "$@"'))


def python_of(env: Any) -> tuple[Path, Path]:
    """Return a plugin's environment's directory, and the Python in it, which need not be there."""
    prefix = Path(env.deployment_path).absolute()
    return prefix, prefix / "bin" / "python"
