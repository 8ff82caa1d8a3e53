"""A worker's output: what goes to a job's own log, and how an error is reported."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.errors import (
    CONTRACT,
    ContractError,
    GpupoolError,
    InputError,
    UndeclaredParam,
)
from snakemake_executor_gpupool.tool_api.advice import advice_on
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.bounds import printable, shortened, shown


@contextlib.contextmanager
def job_log(job: Job, text: str = "", *, is_apart: bool = False) -> Iterator[None]:
    """Redirect output meanwhile, of Python and of libraries below it, to the job's first log file.

    Without a ``log:``, or if it is kept apart, it goes to the worker's own log, as usual.
    """
    if not job.log or is_apart:
        yield
        return
    log = _open_log(job.log[0])
    kept = [os.dup(1), os.dup(2)]
    try:
        os.write(log, printable(text).encode())
        _redirect([log, log])
        yield
    finally:
        _redirect(kept)
        for descriptor in [log, *kept]:
            os.close(descriptor)


def _open_log(path: str) -> int:
    """Open a log for appending; a pipe without a reader is refused, not waited for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
    try:
        log = os.open(path, flags, 0o666)
    except OSError as error:
        pipe = "; it is a pipe that nobody reads" if error.errno == errno.ENXIO else ""
        message = f"log {path} cannot be written: {error.strerror}{pipe}"
        raise InputError(message) from error
    os.set_blocking(log, True)
    return log


def _redirect(targets: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
            # Keeps the order with the output of programs that the tool starts.
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for descriptor, target in zip((1, 2), targets):
        os.dup2(target, descriptor)


def missing_package(error: BaseException) -> str:
    """Return which Python lacks a package, if that caused an error; else empty."""
    cause: BaseException | None = error
    seen = set()
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        seen.add(id(cause))
        cause = cause.__cause__
        if id(cause) in seen:  # a cycle
            return ""
    if cause is None:
        return ""
    package = str(cause.name or "").partition(".")[0] or "it"
    version = "{}.{}".format(*sys.version_info)
    environment = os.environ.get("GPUPOOL_ENVIRONMENT")
    container = os.environ.get("GPUPOOL_CONTAINER")
    if container and not environment:
        where = f"The rule's container {container} (Python {version})"
        return f". {where} lacks {package}: add it to the image"
    if environment:
        return f". The rule's environment {environment} (Python {version}) lacks {package}: add it"
    return (
        f". The workers' Python ({sys.executable}) lacks {package}: install it there, or give "
        "the rule a conda: environment that has it"
    )


def outside_container(error: OSError) -> str:
    """Return what to do about a path that this process's container may not show; else empty."""
    container = os.environ.get("GPUPOOL_CONTAINER")
    if not container or error.errno not in (errno.ENOENT, errno.EROFS):
        return ""
    return (
        f". The rule runs in the container {container}, which sees the working directory and what "
        "is bound: --apptainer-args '--bind DIRECTORY' binds a directory"
    )


def tell_error(error: BaseException) -> dict[str, Any]:
    """Return an error as plain values; a user's mistake has no traceback."""
    kind = kind_of(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.strerror}: {error.filename}{outside_container(error)}"
    else:
        advice = advice_on(error)
        more = f". {advice}" if advice else missing_package(error)
        message = (_words(error) or type(error).__name__) + more
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {
        "kind": kind,
        "type": printable(type(error).__name__),
        "message": printable(shortened(message)),
        "traceback": "" if kind != "tool" else printable("".join(lines)[-8000:]),
    }


def kind_of(error: BaseException) -> str:
    """Return the kind of an error: ``contract`` (the tool's code), ``input`` or ``tool``.

    For the first two the message is enough, without a traceback.
    """
    if isinstance(error, (ContractError, UndeclaredParam)):
        return CONTRACT
    return "input" if isinstance(error, (InputError, GpupoolError)) else "tool"


def _words(error: BaseException) -> str:
    """Return an error's message; even ``str(error)`` may fail."""
    try:
        return str(error)
    except Exception:
        return shown(error)
