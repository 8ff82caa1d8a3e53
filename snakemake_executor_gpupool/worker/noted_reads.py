"""What a tool's processes have read, looked at again for each job that they serve.

A process that outlives its run holds what it has read: a table, a list of files, a setting. Its
results, which later jobs are given, depend on that, too. So each process notes what it has read
before it hands anything out, in a file for all that start from the same, beside what these were to
start from; and before a job is answered a process looks whether all of that still holds.

What the key of a model or of an item covers is not noted, nor what the tool itself changes.
Whether a file exists, asked without opening it, is not observed.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.errors import CodeChanged, FoundHere, UnlistedCode
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.code_digest import code_of
from snakemake_executor_gpupool.worker.dependencies import covered
from snakemake_executor_gpupool.worker.named_files import NOTED_BYTES, content_of
from snakemake_executor_gpupool.worker.observed import FILE, LISTING, Observer, Read, state_of

#: Of the file of notes, instead of that of what processes start from.
SUFFIX = ".reads"
#: A name in the directory that a process was started in, which is no job's.
HERE = "here"
#: Processes that have read more files than so many are replaced.
MAX_READS = 20_000
#: Looking for files that are open or mapped takes milliseconds.
LOOK_S = 1.0

#: Kind, path, what it was like, and a digest of a file's content, if it is small.
Line = tuple[str, str, str, str]


class NotedReads:
    """Notes what this process reads, and compares what all have noted.

    Parameters
    ----------
    expected
        The files that say what this process and others were to start from; none: it notes nothing.
    is_anywhere
        The process was started in a directory that is no job's, which is the current one.
    code
        Returns the files of imported code that are looked after otherwise: one of several tools
        in a process may change without concern to the others.

    Attributes
    ----------
    files
        Where it is noted.
    """

    def __init__(
        self,
        expected: Iterable[str],
        *,
        is_anywhere: bool = False,
        code: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._code = code
        self.files = [f"{os.path.splitext(path)[0]}{SUFFIX}" for path in expected]
        self._is_anywhere = is_anywhere
        self._start = os.getcwd() if is_anywhere else ""
        #: How much of each file was taken in, and the lines in them.
        self._taken = dict.fromkeys(self.files, 0)
        self._lines: dict[Line, None] = {}
        self._own: set[Read] = set()
        #: When to look around again, whatever happens, and how much had been read the last time.
        self._look_s = 0.0
        self._count = 0

    def note(
        self,
        observer: Observer,
        reader: Callable[[], Tool],
        items: Callable[[], Sequence[Any]] = tuple,
    ) -> None:
        """Note what this process has read since the last time, and compare all that is noted.

        What kept results depend on is found before: reads that are covered are forgotten here.

        Parameters
        ----------
        reader
            Returns an object of the tool, whose params' files are covered.
        items
            Returns the items that were computed: files that they name are covered.

        Raises
        ------
        CodeChanged
            Something that was read has changed since.
        UnlistedCode
            It cannot be noted.
        """
        if not self.files:
            return
        self._look_around(observer)
        new = [read for read in observer.reads if read not in self._own]
        code: Collection[str] = ()
        if new:
            tool, code = reader(), self._code()
            for read, _ in covered(new, observer, tool, code_of(type(tool)), items):
                del observer.reads[read]
        new = [read for read in new if read in observer.reads]
        lines = [
            self._line_of(read, observer.reads[read], observer)
            for read in new
            if read.path not in code and not _is_changed_by_tool(read, observer)
        ]
        if len(self._own) + len(new) > MAX_READS:
            raise CodeChanged(f"its process has read more than {MAX_READS} files")
        self._append([line for line in lines if line is not None and line not in self._lines])
        self._own.update(new)  # only now: what could not be noted must not pass the next time
        self.require()

    def _look_around(self, observer: Observer) -> None:
        """Look for what libraries have opened, where that may be more than the last time."""
        now_s = time.monotonic()
        if now_s >= self._look_s or len(observer.reads) != self._count:
            observer.look_around()
            self._look_s = now_s + LOOK_S
            self._count = len(observer.reads)

    def _line_of(self, read: Read, state: Any, observer: Observer) -> Line | None:
        if self._is_anywhere and not read.is_absolute:
            name = os.path.relpath(read.path, self._start)
            if not name.startswith(os.pardir):
                return HERE, name, "", ""
        digest = ""
        if read.kind == FILE and state is not None and state[2] <= NOTED_BYTES:
            digest = content_of(read.path)
        if state_of(read) != state:
            if read.path in observer.databases:
                return None  # which its reader may write to
            raise CodeChanged(f"{read.path} has changed while the tool has read it")
        return read.kind, read.path, _text_of(state), digest

    def _append(self, lines: list[Line]) -> None:
        if not lines:
            return
        # An empty line first: the last one of a disk that was full may be only a part.
        data = "\n".join(["", *map(json.dumps, lines), ""]).encode()
        for path in self.files:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o600)
                try:
                    if os.write(descriptor, data) < len(data):
                        raise OSError("the disk is full")
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise UnlistedCode(f"what it reads cannot be noted: {error}") from error

    # -- comparing -----------------------------------------------------------------------
    def require(self) -> None:
        """Compare.

        Raises
        ------
        CodeChanged
            Something that was read has changed since: who wants the tool must ask another process.
        """
        self._take_in()
        for kind, path, state, digest in self._lines:
            if kind != HERE and not _holds(kind, path, state, digest):
                raise CodeChanged(f"{path}, which the tool has read, has changed since")

    def require_none_in(self, directory: str) -> None:
        """See that a job's directory has nothing that the tool has looked for in another one.

        Raises
        ------
        FoundHere
            It has: the job needs processes that start there.
        """
        self._take_in()
        for kind, name, *_ in self._lines:
            if kind == HERE and os.path.lexists(os.path.join(directory, name)):
                raise FoundHere(f"the tool looks for {name} where it is started")

    def _take_in(self) -> None:
        """Read what was noted since the last time."""
        for path, taken in self._taken.items():
            try:
                with open(path, "rb") as file:
                    file.seek(taken)
                    data = file.read()
            except OSError:  # nothing was noted yet
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._taken[path] = taken + len(whole)
            for text in filter(None, whole.split(b"\n")):
                try:
                    kind, name, state, digest = map(str, json.loads(text))
                except (ValueError, TypeError):  # a part
                    continue
                self._lines[kind, name, state, digest] = None


def _is_changed_by_tool(read: Read, observer: Observer) -> bool:
    """Tell whether the tool itself writes what it reads, or Python listed it to import from it."""
    if read.kind == FILE:
        return read.path in observer.changed
    inside = read.path.rstrip(os.sep) + os.sep
    return read.path in observer.listed_for_imports or any(
        os.path.dirname(path) + os.sep == inside for path in observer.changed
    )


def _text_of(state: Any) -> str:
    """Return a state as text; empty: there is nothing. A device's number differs by container."""
    if state is None or isinstance(state, str):
        return state or ""
    return ":".join(map(str, state[1:]))


def _holds(kind: str, path: str, state: str, digest: str) -> bool:
    now = _text_of(state_of(Read(kind, path, is_absolute=True)))
    if now == state:
        return True
    if kind == LISTING or not now or not state:
        return False
    if digest:  # a link to it was made, or it was written again
        return content_of(path) == digest
    return now.split(":")[1:3] == state.split(":")[1:3]
