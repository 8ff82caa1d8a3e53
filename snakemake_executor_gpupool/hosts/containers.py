"""What starting a worker in a container takes on the machine where it starts."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.visibility import also_in_containers, container_flags
from snakemake_executor_gpupool.errors import WorkerStartError
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS, Container, ToolRef

#: What all of gpupool's variables begin with.
_OURS = "GPUPOOL_"
#: ``bash`` reads its ``.bashrc`` where its input is a socket and no other shell has started it.
_NOT_THE_FIRST_SHELL = {"SHLVL": "1"}


def image_version(path: str) -> str:
    """Return what any change of an image's file changes, on any machine; empty: there is none.

    Of a directory only its own entries count.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return ""
    times = status.st_mtime_ns, status.st_ctime_ns
    return ".".join(map(str, (status.st_ino, status.st_size, *times)))


def require_image(tool: ToolRef) -> None:
    """Raise unless a tool's image, if it has one, is that whose content was read.

    Raises
    ------
    WorkerStartError
        It has changed.
    """
    why_not = "" if tool.container is None else why_not_as_read(tool.container)
    if why_not:
        raise WorkerStartError(why_not)


def why_not_as_read(container: Container) -> str:
    """Return why an image is not the one whose content was read; empty: it is."""
    if image_version(container.image) == container.version:
        return ""
    return (
        f"the image {container.name} has changed since its content was read for this run, so "
        "results could be taken for another image's: run again"
    )


def command_in(tool: ToolRef, devices: Sequence[Device]) -> str:
    """Return the command that starts a worker of a tool in its container."""
    given = tool.container.arguments.split() if tool.container else []
    flags = [flag for flag in container_flags(devices) if flag not in given]
    return tool.activation.replace(DEVICE_ARGUMENTS, shlex.join(flags))


def variables_in(own: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Return variables of a process whose worker is in a container, where ``ours`` must arrive.

    Parameters
    ----------
    own
        Those that the process starts from; gpupool's own among them must arrive as well.
    """
    inherited = {name: value for name, value in own.items() if name.startswith(_OURS)}
    return {**own, **also_in_containers({**inherited, **_NOT_THE_FIRST_SHELL, **ours})}


def marked_by(variable: str, mark: str) -> Callable[[int], bool]:
    """Return a function that tells of a process, by its id, whether a variable has that value.

    A container may number its processes itself; from outside they are found by what they inherit.
    """
    text = f"{variable}={mark}".encode()

    def is_marked(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return text in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False

    return is_marked
