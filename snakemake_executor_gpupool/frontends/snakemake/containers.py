"""The container of a served rule: its image, and the command that starts a worker in it.

The command is the one by which Snakemake would start the rule's own command. gpupool's worker side
is bound into the container, read-only, so an image needs a Python, but no gpupool.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_gpupool.errors import Uncontainable
from snakemake_executor_gpupool.frontends import images
from snakemake_executor_gpupool.frontends.images import notes_of, read_image
from snakemake_executor_gpupool.frontends.snakemake.deployment import container_image_of
from snakemake_executor_gpupool.hosts.containers import image_version
from snakemake_executor_gpupool.hosts.process import CHILD_ENTRY, PACKAGE_DIR
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS, Container

#: Variables that Snakemake unsets for a rule with ``conda:``.
SEARCH_PATHS = ("R_LIBS", "PYTHONPATH", "PERLLIB", "PERL5LIB")
#: As Snakemake does, ``python`` is taken; else, as images of Debian have it, ``python3``.
PYTHONS = ("python", "python3")
#: What separates the parts of a ``--bind``.
_SEPARATORS = ":,'\n"


# -- the image --------------------------------------------------------------------------
def image_of(workflow: Any, job: Any) -> Any | None:
    """Return Snakemake's image of a job; None: the job runs in no container."""
    return job.container_img if container_image_of(workflow, job) else None


def image_key(workflow: Any, job: Any) -> tuple[str, str] | None:
    """Return what identifies the state of a job's image; None: it has none. Reads no content."""
    image = image_of(workflow, job)
    if image is None:
        return None
    path = os.path.abspath(image.path)  # noqa: PTH100 - a link is part of its name
    return path, image_version(path)


def is_read(workflow: Any, job: Any) -> bool:
    """Return whether the content of a job's image is known, as of now, or it has no image."""
    key = image_key(workflow, job)
    return key is None or key in images.digests


def container_of(workflow: Any, job: Any) -> Container | None:
    """Return a job's container; reads the image if it has changed, which takes time.

    Raises
    ------
    Uncontainable
        There is no image, or it changes all the time.
    """
    image = image_of(workflow, job)
    if image is None:
        return None
    path = os.path.abspath(image.path)  # noqa: PTH100
    if not image_version(path):
        raise Uncontainable(_missing(image, path))
    version, digest = read_image(path)
    arguments = str(workflow.deployment_settings.apptainer_args or "").strip()
    notes = str(notes_of(Path(workflow.persistence.path).absolute(), digest))
    return Container(path, str(image.url), digest, version, arguments, notes)


def pull_images(workflow: Any, jobs: Iterable[Any]) -> None:
    """Pull the images of jobs that are not here; takes time.

    Snakemake has done so before a run starts, unless software is each machine's own affair.
    """
    for image in {image.url: image for job in jobs if (image := image_of(workflow, job))}.values():
        if not image.is_local:
            image.pull()


def _missing(image: Any, path: str) -> str:
    if image.is_local:
        return f"its container: {image.url} is not there ({path})"
    return (
        f"the image of its container: {image.url} was not pulled yet. A run pulls it before it "
        "starts, and so does snakemake --sdm apptainer --conda-create-envs-only"
    )


# -- the command ------------------------------------------------------------------------
def worker_command(workflow: Any, container: Container, places: Iterable[str], env: Any) -> str:
    """Return the command that starts a worker in a container.

    Parameters
    ----------
    places
        Directories that the worker needs beside those that the rule's own command would see; read
        only those that end in ``:ro``.
    env
        Snakemake's conda environment in the container; None: there is none.

    Raises
    ------
    Uncontainable
        One of the directories cannot be bound, or there is no Apptainer.
    """
    from snakemake.deployment import singularity
    from snakemake.shell import shell

    try:
        singularity.Singularity().check()  # once: it finds out what the program is called
    except WorkflowError as error:
        raise Uncontainable(str(error)) from error
    inner, shell_name = _inner_command(container), "sh"
    if env is not None:
        inner = f"{_unless_entered(env, container)}; {inner}"
        inner, shell_name = env.conda.shellcmd(str(env.address), inner), "bash"
    binds = " ".join(f"--bind {shlex.quote(bind)}" for bind in _binds(places))
    command = singularity.shellcmd(
        shlex.quote(container.image),
        inner,
        bind=workflow.runtime_paths,
        args=f"{container.arguments} {binds} {DEVICE_ARGUMENTS}",
        shell_executable=shell_name,
    )
    unset = ""
    if env is not None and shell.conda_block_conflicting_envvars:
        unset = f"unset {' '.join(SEARCH_PATHS)}; "
    return f"{unset}exec {command.strip()}"


def _inner_command(container: Container) -> str:
    """Return what runs in the container: its first Python that is new enough, as a worker."""
    worker = shlex.join([str(CHILD_ENTRY), "0", str(PACKAGE_DIR)])
    why = (
        f"gpupool: a worker needs Python 3.9 or newer, and the container {container.name} has none "
        f"(looked for {' and '.join(PYTHONS)})"
    )
    return (
        f"for python in {' '.join(PYTHONS)}; do "
        '"$python" -c "import sys; sys.exit(sys.version_info < (3, 9))" < /dev/null 2> /dev/null '
        f'&& exec "$python" {worker}; done; echo {shlex.quote(why)} >&2; exit 127'
    )


def _unless_entered(env: Any, container: Container) -> str:
    """Return what ends a worker that is not in its environment, as the image's Python would do."""
    entered = f'[ "${{CONDA_PREFIX:-}}" -ef {shlex.quote(str(env.address))} ]'
    if env.name:
        entered = f'[ "${{CONDA_DEFAULT_ENV:-}}" = {shlex.quote(env.name)} ]'
    why = (
        f"gpupool: the conda environment {env.address} could not be activated in the container "
        f"{container.name}"
    )
    return f"{entered} || {{ echo {shlex.quote(why)} >&2; exit 1; }}"


def _binds(places: Iterable[str]) -> Iterator[str]:
    """Yield the arguments of ``--bind`` for gpupool's worker side and for other directories."""
    here = Path.cwd()
    yield _bind(str(PACKAGE_DIR), ":ro")
    for place in dict.fromkeys(places):
        path, read_only = place.removesuffix(":ro"), place.endswith(":ro")
        # The working directory is there anyway, with all that is in it.
        if not Path(path).is_relative_to(here) and Path(path).is_dir():
            yield _bind(path, ":ro" * read_only)


def _bind(path: str, options: str) -> str:
    if any(sign in path for sign in _SEPARATORS):
        raise Uncontainable(
            f"{path} has to be visible in its container, and a directory whose name has a colon, a "
            "comma or a quotation mark cannot be bound"
        )
    return f"{path}:{path}{options}"
