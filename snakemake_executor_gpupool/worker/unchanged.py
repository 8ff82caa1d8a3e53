"""Whether the code that a process has imported is the one that it was to start from.

Whoever starts a process for more than one run says in a file which files its tool's code is made
of, and what each of them was like beforehand. After everything that may have imported something
the process compares: then all that it has imported was read from those files.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Callable, TypeVar

from snakemake_executor_gpupool.errors import CodeChanged, UnlistedCode
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR, fingerprint
from snakemake_executor_gpupool.worker.code_digest import is_below_installed, is_of_python
from snakemake_executor_gpupool.worker.generated import is_generated
from snakemake_executor_gpupool.worker.noted_reads import NotedReads

#: Names the file for a process; it is taken out of the environment at once.
VARIABLE = "GPUPOOL_EXPECTED"
#: How a path is looked at: as a file of code, as one of Python's own by its content, as a place of
#: installed packages, as a directory that imports look into, and as gpupool's own package.
FILE, CONTENT, PLACE, NAMES, PACKAGE = "file", "content", "place", "names", "package"
#: Larger ones count by size, time and number: nobody writes into an interpreter.
MAX_CONTENT_BYTES = 1024**2
T = TypeVar("T")
_IMPORTABLE = (".py", ".so", ".pth")


def signature(kind: str, path: str) -> str:
    """Return what a path is like now; another after any change; empty: it is not there."""
    try:
        if kind == FILE:
            return _of_file(path)
        if kind == CONTENT:
            return _of_content(path)
        if kind == PLACE:
            status = os.stat(path)
            return f"{status.st_mtime_ns}:{status.st_ino}:{status.st_dev}"
        return fingerprint(path) if kind == PACKAGE else "/".join(sorted(importable_in(path)))
    except OSError:
        return ""


def _of_file(path: str) -> str:
    # Opened, since a network file system then asks its server.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
    return ":".join(map(str, numbers))


def _of_content(path: str) -> str:
    # Not by the time of its last change: a further link to it, of a copied environment, is one.
    status = os.stat(path)
    if status.st_size > MAX_CONTENT_BYTES:
        return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def importable_in(directory: str) -> Iterator[str]:
    """Yield what an import may find in a directory."""
    for entry in os.scandir(directory):
        if entry.name.endswith(_IMPORTABLE) or (
            entry.name.isidentifier() and os.path.exists(f"{entry.path}/__init__.py")
        ):
            yield entry.name


class Unchanged:
    """Compares what was expected with what is there.

    Parameters
    ----------
    path
        The file that says what is expected, ``<start>.<code>.json``; ``<start>.<code>+<code>.json``
        stands for one file for each tool of the process. Empty: nothing is, and all is well.

    Attributes
    ----------
    tool
        What the user calls the tool; empty: nothing is expected.
    is_anywhere
        The process was started in a directory that is no job's.
    reads
        What the tool has read beside its code.
    """

    def __init__(self, path: str) -> None:
        self.tool = ""
        self.is_anywhere = False
        self._expected: dict[str, tuple[str, str]] = {}
        #: What was expected of tools that were imported besides.
        self._of_others: dict[str, tuple[str, str]] = {}
        self._modules: tuple[str, ...] = ()
        self._folder = os.path.dirname(path)
        self._contradiction = ""
        files = _files_of(path) if path else []
        for each in files:
            tool, expected, self.is_anywhere = _read(each)
            self.tool = self.tool or tool
            self._contradiction = self._contradiction or _contradiction(self._expected, expected)
            self._expected.update(expected)
        self.reads = NotedReads(files, is_anywhere=self.is_anywhere, code=self._imported)

    def _imported(self) -> set[str]:
        """Return the files of code that were imported as expected."""
        return local_files() & {*self._expected, *self._of_others}

    @classmethod
    def of_this_process(cls) -> Unchanged:
        """Return what is expected of this process."""
        return cls(os.environ.pop(VARIABLE, ""))

    def admit(self, stamp: str, load: Callable[[], T]) -> T:
        """Import another tool, as a stamp has it, into this process; return what ``load`` does.

        Raises
        ------
        CodeChanged
            Its code, or what it shares with what was imported before, is not as expected. It is not
            to be tried again: what Python has imported stays.
        """
        if not self._expected:
            return load()
        _, expected, _ = _read(os.path.join(self._folder, f"{stamp}.json"))
        changed = _contradiction(self._expected, expected) or _contradiction(
            self._of_others, expected
        )
        self._of_others.update(expected)
        if changed:
            raise CodeChanged(f"{changed} has changed since this process imported it")
        loaded = load()
        for path, (kind, sign) in expected.items():
            if signature(kind, path) != sign:
                raise CodeChanged(f"{path} has changed since it was looked at")
        return loaded

    def require(self) -> None:
        """Compare, if anything was imported since the last time.

        Raises
        ------
        CodeChanged
            A file is not what it was: who wants the tool must ask another process.
        UnlistedCode
            The tool has imported a file that its source does not name.
        """
        if not self._expected:
            return
        modules = tuple(sys.modules)
        if modules == self._modules:
            return
        if self._contradiction:
            raise CodeChanged(f"{self._contradiction} has changed while this process was started")
        for path, (kind, sign) in self._expected.items():
            if signature(kind, path) != sign:
                raise CodeChanged(f"{path} has changed since this process was started")
        for path in sorted(local_files()):
            if path not in self._expected and path not in self._of_others:
                raise UnlistedCode(
                    f"{path} is imported under a name that the tool's source does not have"
                )
        self._modules = modules


def _files_of(path: str) -> list[str]:
    """Return the files that a path of :class:`Unchanged` stands for."""
    folder, name = os.path.split(path)
    start, _, codes = name.partition(".")
    if "+" not in codes:
        return [path]
    codes = codes[: -len(".json")]
    return [os.path.join(folder, f"{start}.{code}.json") for code in codes.split("+")]


def _read(path: str) -> tuple[str, dict[str, tuple[str, str]], bool]:
    """Return what a tool is called, what its code was like, and whether it starts anywhere."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    watched = {name: (kind, sign) for name, kind, sign in content["watched"]}
    return content["tool"], watched, content.get("anywhere", False)


def _contradiction(one: dict[str, tuple[str, str]], other: dict[str, tuple[str, str]]) -> str:
    """Return a path that is expected to be one thing and another; empty: there is none."""
    return next((path for path in other if one.get(path, other[path]) != other[path]), "")


def local_files() -> set[str]:
    """Return the files of imported modules that are a user's own."""
    files = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        # What torch makes up (torch.ops, torch.classes) says a name, and no path.
        if isinstance(path, str) and os.path.isabs(path) and is_local(path):
            files.add(os.path.abspath(path))
    return {path for path in files if not is_generated(path)}


def is_local(path: str) -> bool:
    """Return whether a file of code is a user's own, or one that a library has generated."""
    is_own = path.startswith(PACKAGE_DIR + os.sep)
    return not is_own and not is_of_python(path) and not is_below_installed(path)
