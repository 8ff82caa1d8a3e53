"""Outputs appear complete or not at all.

A tool writes into a hidden directory beside each output, under the output's own
base name; once it has returned, every file is renamed into place. A rename
within one directory tree is atomic, so no reader, crash or kill ever meets half
a file under a final name. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from snakemake_executor_gpupool.tool_api.values import InputError, Named

STAGING_PREFIX = ".gpupool-"
#: A file system with less room is what made a write fail, whatever the error said.
FULL_BYTES = 64 * 1024
#: What to do about the errors that users meet.
ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "write to a directory that is not read-only",
    errno.EACCES: "make its directory writable",
    errno.EPERM: "make its directory writable",
    errno.EISDIR: "remove the directory of that name",
    errno.ENOTDIR: "a part of its path is a file and no directory; remove that",
    errno.EEXIST: "a part of its path is a file and no directory; remove that",
    errno.ENAMETOOLONG: "give it a shorter name",
}


def log_line(items: int, distinct: int, by: str) -> str:
    """Return what the log of every served job says of its results."""
    return f"gpupool: {items} items, {distinct} distinct, computed by {by}\n"


@contextlib.contextmanager
def staged_outputs(outputs: Named) -> Iterator[Named]:
    """Yield temporary paths for ``outputs``; rename them into place on a clean exit.

    Raises
    ------
    InputError
        An output cannot be written: its directory is read-only, the disk is full, or
        something else is in its place. Nothing is left under the final names by this
        call, nor any temporary file.
    """
    stages: dict[str, str] = {}
    try:
        yield outputs.mapped(lambda path: _stage(path, stages))
        for path in outputs:
            staged = _staged_path(path, stages)
            if os.path.lexists(staged):
                move_into_place(staged, path)
    except InputError:
        raise
    except Exception as error:
        path, number = _what_failed(error, outputs, stages)
        if path is None:
            raise
        advice = f"; {ADVICE[number]}, and run again" if number in ADVICE else ""
        raise InputError(
            f"output {path} cannot be written: {os.strerror(number)}{advice}"
        ) from error
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def _stage(path: str, stages: dict[str, str]) -> str:
    parent = os.path.dirname(os.path.normpath(path))
    if parent not in stages:
        try:
            os.makedirs(parent or ".", exist_ok=True)
            prefix = f"{STAGING_PREFIX}{os.getpid()}-"
            stages[parent] = tempfile.mkdtemp(prefix=prefix, dir=parent or ".")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
    return _staged_path(path, stages)


def _staged_path(path: str, stages: dict[str, str]) -> str:
    parent, base = os.path.split(os.path.normpath(path))
    return os.path.join(stages[parent], base)


def put_in_place(staged: Iterable[str], paths: Iterable[str]) -> None:
    """Rename files and directories that were staged elsewhere to their final paths, in order."""
    for source, target in zip(staged, paths):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        move_into_place(source, target)


def move_into_place(staged: str, path: str) -> None:
    """Rename a staged file or directory to its final path."""
    if os.path.isdir(staged) and os.path.isdir(path):
        # Snakemake may have made the directory of a directory() output beforehand.
        shutil.rmtree(path)
    os.replace(staged, path)


def _what_failed(
    error: Exception, outputs: Named, stages: dict[str, str]
) -> tuple[str | None, int]:
    """Return the output that an error is about, and the error's number; None: about none."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    if any(_is_full(stage) for stage in stages.values()):
        number = errno.ENOSPC  # libraries say it in many ways
    named = f"{getattr(error, 'filename', None)}{os.sep}"
    for path in outputs:
        places = [path]
        if os.path.dirname(os.path.normpath(path)) in stages:
            places.append(_staged_path(path, stages))
        if number and any(named.startswith(place + os.sep) for place in places):
            return path, number
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ", ".join(outputs), number  # the error of a write, which names no file
    return None, number


def _is_full(stage: str) -> bool:
    try:
        status = os.statvfs(stage)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < FULL_BYTES
