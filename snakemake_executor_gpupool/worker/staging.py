"""Outputs that are written before their job is ready, and published by renaming them.

::

    <root>/<root's name>-<process>-<n>/<path as the job has it>       a view

A *view* replaces the working directory: relative paths of inputs and outputs are the same in it,
so a tool that uses a path's text gives the same results. Outputs of the chain lie in the view;
everything else is a link into the working directory. Views lie in the run's own directory, so that
they do not appear in directories of the workflow, and unclaimed outputs are removed with the run.
Every name below the root contains the root's unique name, by which items that mention the path
they were read from are recognised.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.files import remove
from snakemake_executor_gpupool.worker.file_hashes import MAX_FILES, hash_of
from snakemake_executor_gpupool.worker.inputs import explained_inputs
from snakemake_executor_gpupool.worker.outputs import move_into_place, outermost

CHUNK_BYTES = 1024**2
#: Of a working directory with more entries, a view shows only declared files.
MAX_SHOWN = 1000


class NotStageable(Exception):
    """A job's files cannot be written or read before it is ready."""


def is_inside(path: str) -> bool:
    """Return whether a path is relative and stays below the working directory."""
    first = os.path.normpath(path).partition(os.sep)[0]
    return not os.path.isabs(path) and first not in (os.pardir, os.curdir)


class View:
    """A directory that looks like the working directory of a job that is not ready.

    Parameters
    ----------
    path
        The view's own path; created here.
    cwd
        The working directory.
    """

    def __init__(self, path: str, cwd: str) -> None:
        self.path = path
        self._cwd = cwd
        self._made: set[str] = {""}
        os.mkdir(path)
        shown = os.listdir(cwd)
        for name in shown if len(shown) <= MAX_SHOWN else ():
            os.symlink(os.path.join(cwd, name), os.path.join(path, name))

    def has(self, path: str) -> bool:
        """Return whether the chain has written an output."""
        if os.path.dirname(os.path.normpath(path)) not in self._made:
            return False
        try:
            return not stat.S_ISLNK(os.lstat(os.path.join(self.path, path)).st_mode)
        except OSError:
            return False

    def make_way(self, paths: Iterable[str]) -> None:
        """Create the directories of outputs and logs, as Snakemake does for a ready job."""
        for path in paths:
            if not is_inside(path):
                raise NotStageable(path)
            self._make(os.path.dirname(os.path.normpath(path)))
            place = os.path.join(self.path, path)
            if os.path.islink(place):
                os.unlink(place)  # an earlier run's

    def show(self, path: str) -> None:
        """Make a file of the working directory visible in the view."""
        if os.path.isabs(path):
            return
        if not is_inside(path):
            raise NotStageable(path)
        place, target = os.path.join(self.path, path), os.path.join(self._cwd, path)
        if os.path.exists(place) and os.path.samefile(place, target):
            return
        self._make(os.path.dirname(os.path.normpath(path)))
        if os.path.islink(place):
            os.unlink(place)
        elif os.path.lexists(place):
            raise NotStageable(path)
        os.symlink(target, place)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove outputs and logs that the chain has written."""
        # A path with links may lead into the working directory.
        remove(os.path.join(self.path, path) for path in paths if self.has(path))

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        self._make(os.path.dirname(folder))
        place = os.path.join(self.path, folder)
        if os.path.islink(place):
            os.unlink(place)
        if not os.path.isdir(place):
            os.mkdir(place)
        self._made.add(folder)


class Staging:
    """Finds a view for each chain.

    Parameters
    ----------
    root
        A directory of this run, on the file system of the outputs.
    is_lent
        It is another run's, and is not made again once it is gone.
    """

    def __init__(self, root: str, is_lent: bool = False) -> None:
        self.root = root
        self._is_lent = is_lent
        self._views: dict[str, list[View]] = {}
        self._made = 0
        # Processes of several machines may share the root.
        self._own = os.urandom(6).hex()

    def view(self, cwd: str, outputs: Iterable[str]) -> View:
        """Return a view of a working directory that contains none of the outputs."""
        views = self._views.setdefault(cwd, [])
        outputs = list(outputs)
        for view in views:
            if not any(map(view.has, outputs)):
                return view
        name = f"{os.path.basename(self.root)}-{self._own}-{self._made}"
        self._made += 1
        if not self._is_lent:
            os.makedirs(self.root, exist_ok=True)
        views.append(View(f"{self.root}/{name}", cwd))
        return views[-1]

    def inner(self, view: View, paths: Iterable[str]) -> list[str]:
        """Return paths of a view relative to the root."""
        return [f"{os.path.basename(view.path)}/{os.path.normpath(path)}" for path in paths]


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """Change into a directory, and back afterwards."""
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def size_bytes(path: str) -> int:
    """Return the size of a file, or of all files of a directory, in bytes."""
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        return sum(size_bytes(entry.path) for entry in os.scandir(path))
    return status.st_size


def digest(path: str) -> str:
    """Return what :func:`~.file_hashes.hash_of` says of a file; of a directory all that is in it.

    Names, links and content of a directory count, however many files there are.

    Raises
    ------
    OSError
        There is nothing, or it cannot be read.
    """
    return examined(path)[0]


def hashes_read(paths: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return the hashes of files that have just been found to have these digests."""
    return [
        hash_of(path) if content.startswith("dir:") else content
        for path, content in zip(paths[:MAX_FILES], digests)
    ] + [""] * (len(paths) - MAX_FILES)


def examined(
    path: str, words: Sequence[bytes] = (), new_hash: Callable[[], Any] = hashlib.sha256
) -> tuple[str, bool]:
    """Return a file's or directory's digest, and whether it contains one of the words.

    Links count, too: where they lead, and what is there.
    """
    total = new_hash()
    has_word = bool(words) and _leads_to(path, words)
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except IsADirectoryError:
        for name in sorted(os.listdir(path)):
            inner, is_inner = examined(os.path.join(path, name), words, new_hash)
            has_word = has_word or is_inner or _has_any(os.fsencode(name), words)
            total.update(f"{name}\0{inner}\0".encode())
        return f"dir:{total.hexdigest()}", has_word
    size, kept = 0, max(map(len, words), default=1) - 1
    end = b""
    with file:
        # No larger than needed: allocating a megabyte takes longer than reading a small file.
        there_bytes = os.fstat(file.fileno()).st_size
        chunk_bytes = min(there_bytes + 1, CHUNK_BYTES)
        while chunk := file.read(chunk_bytes):
            total.update(chunk)
            size += len(chunk)
            if words and not has_word:
                end += chunk  # a word may lie across two chunks
                has_word = _has_any(end, words)
                end = end[-kept:] if kept else b""
            if size == there_bytes and len(chunk) < chunk_bytes:
                break  # more was asked for than there is
    return f"{size}:{total.hexdigest()}", has_word


def _leads_to(path: str, words: Sequence[bytes]) -> bool:
    """Return whether a path is a link whose target has one of the words."""
    try:
        return _has_any(os.fsencode(os.readlink(path)), words)
    except OSError:  # no link
        return False


def _has_any(content: bytes, words: Sequence[bytes]) -> bool:
    return any(word in content for word in words)


def publish(
    job: Job,
    digests: list[str],
    outputs: list[str],
    logs: list[str],
    touched: Iterable[int] = (),
) -> bool:
    """Rename a job's staged outputs into place, if its inputs still have the same digests.

    Parameters
    ----------
    digests
        Digests of the inputs, in their order.
    outputs, logs
        Staged paths of the job's outputs and logs, in their order.
    touched
        Outputs that Snakemake creates itself if the tool has not.

    Returns
    -------
    bool
        Whether all outputs are in place. If not, the job must be served by itself, which replaces
        whatever was renamed.
    """
    if not are_inputs(job, digests):
        return False
    if len(outputs) != len(job.output) or not is_complete(outputs, touched):
        return False
    whole = outermost(job.output)
    for source, target in zip(outputs, job.output):
        if target in whole and os.path.lexists(source):
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            move_into_place(source, target)
    with logs_put_back(job):
        move_logs(job, logs)
    return True


def are_inputs(job: Job, digests: list[str]) -> bool:
    """Return whether a job's inputs are what was read for it: whether they have these digests."""
    with explained_inputs(job):
        return [digest(path) for path in job.input] == digests


@contextlib.contextmanager
def logs_put_back(job: Job) -> Iterator[None]:
    """Put a job's logs back as they were if what follows fails: the job is then done once more."""
    before = [_size_of_file(path) for path in job.log]
    try:
        yield
    except BaseException:
        for path, size in zip(job.log, before):
            with contextlib.suppress(OSError):  # no file
                os.unlink(path) if size is None else os.truncate(path, size)
        raise


def _size_of_file(path: str) -> int | None:
    """Return how large a file is; None: there is nothing."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def move_logs(job: Job, logs: list[str]) -> None:
    """Append staged logs to those of a job."""
    for source, target in zip(logs, job.log):
        _append(source, target)


def is_complete(outputs: list[str], touched: Iterable[int]) -> bool:
    """Return whether a tool has written all outputs that it must write."""
    made_by_others = set(touched)
    return all(
        number in made_by_others or os.path.lexists(path) for number, path in enumerate(outputs)
    )


def _append(source: str, target: str) -> None:
    if not os.path.exists(source):
        return
    if not os.path.lexists(target):
        os.rename(source, target)
        return
    with open(source, "rb") as words, open(target, "ab") as log:
        shutil.copyfileobj(words, log)
    os.unlink(source)
