"""Whether what this process has imported and loaded before there was a job for it still holds.

Before a job is ready, the jobs that it waits for may still write what the tool reads while it is
imported, or loads its model. So whoever has a process do something ahead of the first job asks once
that is there::

    coordinator → worker          worker → coordinator
    check {model} [params]        checked {holds}

``model``: of one that was loaded; of a process for files, empty. It holds if all that was read or
looked at since is as it was then: files, lists of names, what params name, what modules there are
to import. What nobody sees holds never: other programs and processes, databases, the network.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR
from snakemake_executor_gpupool.worker.code_digest import (
    is_below_installed,
    is_code_as_it_was,
    is_of_python,
    version_of,
)
from snakemake_executor_gpupool.worker.looks import Looks, state_at
from snakemake_executor_gpupool.worker.named_files import MODEL, SETTLED_S, files_below, roots_of
from snakemake_executor_gpupool.worker.observed import FILE, OBSERVER, Observer, Read, state_of
from snakemake_executor_gpupool.worker.unchanged import importable_in

#: Two changes within so many seconds may have the same time.
TICK_S = 0.05
#: What makes it unknown what was read.
_UNSEEN = ("processes", "observing")
#: Programs that say nothing but what machine this is; libraries start them.
OF_MACHINE = frozenset({"getconf", "hostname", "ldconfig", "lscpu", "nvidia-smi", "uname"})

Versions = dict[str, Any]


class SeenAhead:
    """What this process sees before there is a job for it.

    Parameters
    ----------
    observer
        Notes what is read.
    """

    def __init__(self, observer: Observer = OBSERVER) -> None:
        self._began_s = time.time()
        self._observer = observer
        self._looks = observer.looks = Looks()
        #: Of the files that the model is made of, before they were read.
        self._versions: Versions = {}

    def end(self) -> None:
        """There are jobs: from now on nothing is ahead of them."""
        self._observer.looks = None

    def loads(self, reader: Tool) -> None:
        """The model of such a tool is about to be loaded."""
        self._versions = versions_of(reader)

    def holds_for(self, reader: Tool) -> bool:
        """Return whether the files that a model is made of are as they were when it was loaded."""
        return self._versions == versions_of(reader) and not any(map(self._is_new, self._versions))

    def holds(self, tool_class: type[Tool]) -> bool:
        """Return whether everything that was seen is as it was."""
        observer = self._observer
        observer.look_around()
        if any(kind in observer.remarks for kind in _UNSEEN) or not observer.programs <= OF_MACHINE:
            return False
        if observer.databases or observer.has_connected:
            return False
        return (
            is_code_as_it_was(tool_class)
            and not self._has_new_modules()
            and all(self._is_as_it_was(read, state) for read, state in observer.reads.items())
            and self._has_looked_at_what_is()
        )

    def _is_as_it_was(self, read: Read, state: Any) -> bool:
        """Return whether what was read, or listed, is the same, and was not written since."""
        if read.path in self._observer.listed_for_imports:
            return True  # of modules that are new
        if read.kind == FILE:
            return state_of(read) == state and not self._is_new(read.path)
        with contextlib.suppress(OSError):
            inside = (os.path.join(read.path, name) for name in os.listdir(read.path))
            if any(self._is_new(each) for each in inside if not self._observer.is_ignored(each)):
                return False
        return bool(state_of(read) == state)

    def _has_new_modules(self) -> bool:
        """Return whether an import may find something that was not there."""
        packages = _packages()
        for directory in {os.path.abspath(place) for place in sys.path} | packages:
            if is_below_installed(directory + os.sep) or is_of_python(directory):
                if self._is_new(directory):
                    return True
                continue
            with contextlib.suppress(OSError):
                names = [*importable_in(directory), *_distributions_in(directory)]
                paths = [os.path.join(directory, name) for name in names]
                # What imports cache inside a package makes no other one of it.
                new = [path for path in paths if path not in packages and self._is_new(path)]
                if new or any(self._is_new(os.path.join(path, "__init__.py")) for path in paths):
                    return True
        return False

    def _has_looked_at_what_is(self) -> bool:
        states = self._looks.states.items()
        seen = [(path, state) for path, state in states if not self._observer.is_ignored(path)]
        for directory in {os.path.dirname(path) for path, state in seen if state is None}:
            with contextlib.suppress(OSError):
                os.listdir(directory)  # a network file system asks its server what is there now
        return all(_fresh(path) == state for path, state in seen)

    def _is_new(self, path: str) -> bool:
        """Return whether a file may have changed since this began."""
        try:
            statuses = os.stat(path), os.lstat(path)
        except OSError:
            return False
        return any(
            status.st_ctime > self._began_s - (SETTLED_S if _is_coarse(status) else TICK_S)
            for status in statuses
        )


def _is_coarse(status: os.stat_result) -> bool:
    return status.st_ctime_ns % 10**9 == 0  # times in whole seconds


def _fresh(path: str) -> Any:
    """Return the state of a path; a network file system is asked for that of a file."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return state_at(path)


def _distributions_in(directory: str) -> list[str]:
    """Return the names of what says that a package is installed."""
    ends = (".dist-info", ".egg-info", ".egg-link")
    return [name for name in os.listdir(directory) if name.endswith(ends)]


def _packages() -> set[str]:
    """Return the directories of imported packages that are neither installed nor gpupool's."""
    places = set[str]()
    for module in list(sys.modules.values()):
        path = getattr(module, "__dict__", {}).get("__path__")
        if path is not None:  # lists, and some that are made when they are looked at
            places.update(place for place in path if isinstance(place, str))
    return {
        place
        for place in places
        if not is_below_installed(place) and not is_of_python(place)
        if place != PACKAGE_DIR and not place.startswith(PACKAGE_DIR + os.sep)
    }


def versions_of(reader: Tool) -> Versions:
    """Return what changes with any of the files that a model is made of, by their paths."""
    named = [reader.model_params(), list(reader.extra_model_files())]
    return {path: version_of(path) for path in _files(roots_of(named, MODEL))}


def _files(roots: list[str]) -> Iterator[str]:
    for root in roots:
        yield root
        if os.path.isdir(root):
            yield from (os.path.join(root, name) for name in files_below(root))
