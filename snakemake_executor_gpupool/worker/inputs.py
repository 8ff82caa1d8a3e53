"""Missing inputs, and inputs that are not files, are reported clearly and never waited for.

Opening a named pipe that nobody writes to waits forever, and a file may vanish between the
moment a job was planned and the moment it is read. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Job


@contextlib.contextmanager
def explained_inputs(job: Job, *, pipes: bool = False) -> Iterator[None]:
    """Check a job's inputs, then explain errors of reading them.

    Parameters
    ----------
    pipes
        Whether inputs may be pipes: only where no other job waits for this process.

    Raises
    ------
    InputError
        An input is missing, unreadable, a pipe or a socket; the message names it.
    """
    for path in job.input:
        _check(path, pipes)
    try:
        yield
    except OSError as error:
        if error.filename in job.input:
            raise InputError(f"input {error.filename} {_cause(error)}") from error
        raise


def _check(path: str, pipes: bool) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"input {path} {_cause(error)}") from error
    if stat.S_ISSOCK(mode) or (stat.S_ISFIFO(mode) and not pipes):
        raise InputError(
            f"input {path} is a pipe or a socket, and served jobs read files or directories: "
            "write what comes through it to a file first"
        )


def _cause(error: OSError) -> str:
    path = str(error.filename)
    container = os.environ.get("GPUPOOL_CONTAINER")
    if container and isinstance(error, FileNotFoundError):
        link = f"(a link to {os.readlink(path)}) " if os.path.islink(path) else ""
        return (
            f"{link}is not visible in the rule's container {container}, which sees the working "
            "directory and what is bound. Bind its directory: --apptainer-args '--bind DIRECTORY'. "
            "If it was removed after the run had started, make it, and run again"
        )
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read: {error.strerror}"
    if os.path.islink(path):
        return (
            f"is a link to {os.readlink(path)}, which does not exist: make that, or the link anew"
        )
    return "is not there: was it removed after the run had started? Make it, and run again"
