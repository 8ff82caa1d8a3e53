"""Outputs appear complete or not at all.

A tool writes into a hidden directory beside each output, under the output's own
base name; once it has returned, every file is renamed into place. A rename
within one directory tree is atomic, so no reader, crash or kill ever sees half
a file under a final name. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Callable, Optional

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Named
from snakemake_executor_gpupool.worker.staging_folders import StagingFolders, remove_folder
from snakemake_executor_gpupool.worker.written import Expected, refuse_unwritten

#: If a file system has less room than this, that made a write fail, whatever the error says.
FULL_BYTES = 64 * 1024
#: Advice on the errors that users meet.
ADVICE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "write to a directory that is not read-only",
    errno.EACCES: "make its directory writable",
    errno.EPERM: "make its directory writable",
    errno.EISDIR: "remove the directory of that name",
    errno.ENOTDIR: "a part of its path is a file, not a directory; remove that",
    errno.EEXIST: "a part of its path is a file, not a directory; remove that",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOENT: "have write() make the directory first: os.makedirs(job.output[0])",
}


@contextlib.contextmanager
def staged_outputs(
    outputs: Named,
    content: Content | None = None,
    expected: Expected | None = None,
    folders: StagingFolders | None = None,
) -> Iterator[Named]:
    """Yield temporary paths for ``outputs``; rename them into place on a clean exit.

    An output that lies inside another one, a directory, is inside that one's temporary path, too.

    Parameters
    ----------
    content
        Returns the content of an output's temporary path beforehand; None: nothing.
    expected
        What must exist afterwards; None: it is not checked.
    folders
        Where hidden directories come from, and are given back to; None: they are removed.

    Raises
    ------
    ContractError
        An output was not written, or something beside the outputs was.
    InputError
        An output cannot be written: its directory is read-only, the disk is full, or
        something else has its name. This call then leaves nothing under the final names,
        and no temporary file.
    """
    stages = _Stages(folders or StagingFolders())
    try:
        stages.prepare(outputs, content)
        before = [path for path in outputs if os.path.lexists(path)]
        yield outputs.mapped(stages.places.__getitem__)
        if expected is not None:
            refuse_unwritten(expected, stages.places, stages.folders, outputs, before)
        for path in outputs:
            staged = stages.places[path]
            if path in stages.outermost and os.path.lexists(staged):
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
        for folder in stages.folders.values():
            remove_folder(folder) if folders is None else folders.give_back(folder)


#: Returns what an output has before it is written: the path to copy it from; None: nothing; the
#: output's own path where that is a pipe, which is written to as it is.
Content = Callable[[str], Optional[str]]


def what_is_there(path: str) -> str | None:
    """Return what lies under an output's name: a script that writes there would find it.

    Snakemake has removed it, unless it is to be updated, or is a pipe.
    """
    return path if os.path.exists(path) else None


def files_that_are_there(path: str) -> str | None:
    """Do the same, but give a directory nothing of an earlier run."""
    return None if os.path.isdir(path) else what_is_there(path)


def outermost(outputs: Iterable[str]) -> set[str]:
    """Return those outputs that lie in no other one."""
    outputs = list(outputs)
    if len(outputs) == 1:
        return set(outputs)
    places = {path: os.path.abspath(path) for path in outputs}
    outer: set[str] = set()
    for path in sorted(places, key=lambda path: len(places[path])):
        if not _owner(places[path], [places[other] for other in outer]):
            outer.add(path)
    return outer


def _owner(place: str, others: Iterable[str]) -> str | None:
    """Return which of other places one lies in, if in any."""
    return next((other for other in others if place.startswith(f"{other}{os.sep}")), None)


class _Stages:
    """The places of outputs before they are renamed.

    Attributes
    ----------
    folders
        The hidden directory in each directory of outputs.
    places
        The temporary path of each output.
    outermost
        The outputs that lie in no other one.
    """

    def __init__(self, source: StagingFolders) -> None:
        self._source = source
        self.folders: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self.outermost: set[str] = set()

    def prepare(self, outputs: Named, content: Content | None) -> None:
        self.outermost = outermost(outputs)
        for path in outputs:
            if path in self.outermost:
                self._stage(path, content(path) if content is not None else None)
        if len(self.outermost) == len(set(outputs)):
            return
        owners = {os.path.abspath(path): self.places[path] for path in self.outermost}
        for path in outputs:
            place = os.path.abspath(path)
            owner = _owner(place, owners)
            if owner is not None:
                self.places[path] = owners[owner] + place[len(owner) :]
                # Snakemake makes the directory of every output.
                os.makedirs(os.path.dirname(self.places[path]), exist_ok=True)

    def _stage(self, path: str, source: str | None) -> None:
        if source is not None and stat.S_ISFIFO(os.stat(source).st_mode):
            self.places[path] = path
            return
        parent, base = os.path.split(os.path.normpath(path))
        if parent not in self.folders:
            try:
                self.folders[parent] = self._source.take(parent)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
        self.places[path] = os.path.join(self.folders[parent], base)
        if source is None:
            return
        if not os.path.isdir(source):
            shutil.copy(source, self.places[path])
        elif os.listdir(source):
            shutil.copytree(source, self.places[path], symlinks=True)


def move_into_place(staged: str, path: str) -> None:
    """Rename a staged file or directory to its final path."""
    if staged == path:
        return
    if os.path.isdir(staged) and os.path.isdir(path):
        # Snakemake may have made the directory of a directory() output beforehand.
        shutil.rmtree(path)
    os.replace(staged, path)


def _what_failed(error: Exception, outputs: Named, stages: _Stages) -> tuple[str | None, int]:
    """Return the output that an error is about, and the error's number; None: about none."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    if any(_is_full(folder) for folder in stages.folders.values()):
        number = errno.ENOSPC  # libraries report it in many ways
    named = _normal(getattr(error, "filename", None))
    for path in outputs:
        places = [path, stages.places.get(path, path)]
        if number and any(named.startswith(_normal(place)) for place in places):
            return path, number
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ", ".join(outputs), number  # the error of a write, which names no file
    return None, number


def _normal(path: object) -> str:
    return f"{os.path.normpath(str(path))}{os.sep}"


def _is_full(stage: str) -> bool:
    try:
        status = os.statvfs(stage)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < FULL_BYTES
