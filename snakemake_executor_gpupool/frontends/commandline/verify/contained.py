"""How a job that ran in a container is started there again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.visibility import container_flags
from snakemake_executor_gpupool.frontends.commandline.verify.choosing import Recorded
from snakemake_executor_gpupool.frontends.images import notes_of
from snakemake_executor_gpupool.hosts.containers import variables_in
from snakemake_executor_gpupool.hosts.process import PACKAGE_DIR
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS
from snakemake_executor_gpupool.worker.main import QUESTION_VARIABLE

#: By which a user chooses cards: they must arrive in a container with a clean environment, too.
_CHOICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def in_container(
    recorded: Recorded, question: Path, kinds: Sequence[str], variables: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return a command that answers a question in a job's container, and its environment.

    Parameters
    ----------
    question
        In a directory that the answer goes into, too.
    kinds
        Kinds of the devices that it may use.
    variables
        What the process is told beside its question.
    """
    place = str(question.parent)
    gpus = [Device(name=f"{kind}:0", kind=kind, index=0) for kind in kinds]
    given = recorded.container.get("arguments", "").split()
    flags = [flag for flag in container_flags(gpus) if flag not in given]
    # It may be another gpupool than the one that the job ran under.
    command = recorded.start["command"].replace(recorded.start["package"], str(PACKAGE_DIR))
    arguments = shlex.join([*flags, "--bind", f"{place}:{place}"])
    chosen = {name: os.environ[name] for name in _CHOICES if name in os.environ}
    notes = notes_of(recorded.directory / ".snakemake", recorded.container["sha256"])
    named = {"GPUPOOL_CONTAINER": recorded.container["image"], "GPUPOOL_FILE_DIGESTS": str(notes)}
    ours = {**chosen, **named, **variables, QUESTION_VARIABLE: str(question)}
    environment = variables_in(os.environ, ours)
    return ["bash", "--norc", "-c", command.replace(DEVICE_ARGUMENTS, arguments)], environment
