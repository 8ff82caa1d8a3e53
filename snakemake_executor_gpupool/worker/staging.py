"""Outputs that are written before their job is ready, and published by renaming them.

::

    <root>/<root's name>-<process>-<n>/<base name>

They lie in the run's own directory, so that nobody who lists a directory of the workflow meets
them, and what nobody asks for goes with it. Files whose base names differ share a directory:
making and removing one can take longer than all else that is done for a small file. Every name
below the root has the root's own in it: who tells where it read an item from is known by that.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator

from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.outputs import put_in_place

CHUNK_BYTES = 1024**2


class Staging:
    """Finds places for outputs.

    Parameters
    ----------
    root
        A directory of this run, on the file system of the outputs.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._folders: list[str] = []
        # By base name: the folder that it was last put into.
        self._latest: dict[str, int] = {}
        # Processes of several machines may share the root.
        self._own = os.urandom(6).hex()

    def aside(self, job: Job) -> Job:
        """Return a job that writes outputs and logs under the root, with their own base names."""
        taken: set[str] = set()

        def place(path: str) -> str:
            return self._place(os.path.basename(os.path.normpath(path)), taken)

        return job.replace(output=job.output.mapped(place), log=job.log.mapped(place))

    def _place(self, base: str, taken: set[str]) -> str:
        for number in self._numbers(base):
            path = f"{self._folder(number)}/{base}"
            if path not in taken and not os.path.lexists(path):
                taken.add(path)
                self._latest[base] = number
                return path
        raise AssertionError("there is always another folder")

    def _numbers(self, base: str) -> Iterator[int]:
        """Yield folders to try: what was put there first is the first to be published.

        Not all that there are: with a thousand files of one name, that would be a million looks.
        """
        used = [0, self._latest.get(base, 0) + 1, 1]
        yield from (number for number in used if number < len(self._folders))
        yield from itertools.count(len(self._folders))

    def _folder(self, number: int) -> str:
        if number >= len(self._folders):
            name = f"{os.path.basename(self.root)}-{self._own}-{len(self._folders)}"
            os.makedirs(f"{self.root}/{name}")
            self._folders.append(f"{self.root}/{name}")
        return self._folders[number]

    def inner(self, paths: Iterable[str]) -> list[str]:
        """Return paths as they are below the root."""
        return [path[len(self.root) + 1 :] for path in paths]


def remove(paths: Iterable[str]) -> None:
    """Remove files and directories, those of them that are there."""
    for path in paths:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def size_bytes(path: str) -> int:
    """Return what a file, or all files of a directory, take."""
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        return sum(size_bytes(entry.path) for entry in os.scandir(path))
    return status.st_size


def digest(path: str) -> str:
    """Return size and BLAKE2b digest of a file's bytes; of a directory, of all that is in it."""
    total = hashlib.blake2b(digest_size=32)
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except IsADirectoryError:
        for name in sorted(os.listdir(path)):
            total.update(f"{name}\0{digest(os.path.join(path, name))}\0".encode())
        return f"dir:{total.hexdigest()}"
    size = 0
    with file:
        # No larger than needed: a fresh megabyte takes longer to get than a small file to read.
        chunk_bytes = min(os.fstat(file.fileno()).st_size + 1, CHUNK_BYTES)
        while chunk := file.read(chunk_bytes):
            total.update(chunk)
            size += len(chunk)
    return f"{size}:{total.hexdigest()}"


def publish(job: Job, digests: list[str], outputs: list[str], logs: list[str]) -> bool:
    """Rename what was staged for a job into place, if its inputs are what it was made from.

    Parameters
    ----------
    digests
        Of the inputs, in their order.
    outputs, logs
        Where the job's own were staged, in their order.

    Returns
    -------
    bool
        Whether all outputs are there. If not, the job is to be done the ordinary way, which
        replaces whatever was renamed already.
    """
    with explained_inputs(job):
        if [digest(path) for path in job.input] != digests:
            return False
    if len(outputs) != len(job.output) or not all(map(os.path.lexists, outputs)):
        return False
    put_in_place(outputs, job.output)
    for source, target in zip(logs, job.log):
        _append(source, target)
    return True


def _append(source: str, target: str) -> None:
    if not os.path.exists(source):
        return
    if not os.path.lexists(target):
        os.rename(source, target)
        return
    with open(source, "rb") as words, open(target, "ab") as log:
        shutil.copyfileobj(words, log)
    os.unlink(source)
