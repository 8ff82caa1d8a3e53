"""Which installed packages a tool's code imports as the first thing that it does.

A process that is started before anybody knows what for (:mod:`.early`) imports them ahead. That
must make no difference, so only those count that were imported while nothing had been changed on
which the import of a package may depend: the environment, and what decides where modules are found.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from snakemake_executor_gpupool.tool_api import neighbours
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR
from snakemake_executor_gpupool.worker.code_digest import OWN_PACKAGE, is_below_installed

#: No tool names more by itself.
MAX_NAMES = 200


class Imports:
    """The imports of this process that no installed package has asked for."""

    def __init__(self) -> None:
        self._names: list[str] = []
        #: What these import themselves.
        self._nested: set[str] = set()
        self._state: Any = None

    def begin(self) -> None:
        """Nothing of the tool has run so far."""
        self._state = _state()

    def environment_was_set(self) -> None:
        """Gpupool itself has set variables: those count as there from the start."""
        if self._state is not None:
            self._state = (_environment(), *self._state[1:])

    def note(self, name: str) -> None:
        """Take in that a module is about to be imported."""
        if self._state is None or len(self._names) == MAX_NAMES:
            return
        if self._is_nested():
            self._nested.add(name.partition(".")[0])
        elif _state() == self._state:
            self._names.append(name)
        else:
            self._state = None  # from here on it may depend on what the tool has done before

    def _is_nested(self) -> bool:
        """Tell whether an installed package is importing this."""
        # Nearly always it is the last one: importing a package imports hundreds of modules.
        last = sys.modules.get(self._names[-1]) if self._names else None
        is_going_on = getattr(getattr(last, "__spec__", None), "_initializing", False)
        if is_going_on and _is_installed(getattr(last, "__file__", None)):
            return True
        frame: Any = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "<module>" and _is_installed(frame.f_code.co_filename):
                return True
            frame = frame.f_back
        return False

    def names(self) -> list[str]:
        """Return the installed ones, in the order in which they were imported."""
        if has_neighbour(self._nested):
            return []
        found = ((name, getattr(sys.modules.get(name), "__file__", None)) for name in self._names)
        return list(dict.fromkeys(name for name, file in found if _is_installed(file)))


def _is_installed(path: Any) -> bool:
    """Tell whether a file belongs to an installed package other than gpupool."""
    if not isinstance(path, str) or path.startswith(PACKAGE_DIR + os.sep):
        return False
    return is_below_installed(path)


def _state() -> Any:
    # What gpupool itself does for a tool's file leaves the imports of installed packages alone,
    # unless something beside the file has the name of one: see has_neighbour.
    finders = [each for each in (*sys.meta_path, *sys.path_hooks) if not _is_own(each)]
    places = [path for path in sys.path if path not in neighbours.directories()]
    blocked = [name for name, module in list(sys.modules.items()) if module is None]
    return _environment(), os.getcwd(), places, finders, blocked


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("GPUPOOL_")}


def _is_own(finder: Any) -> bool:
    module = getattr(finder, "__module__", None) or type(finder).__module__
    return str(module).partition(".")[0] == OWN_PACKAGE


def has_neighbour(names: set[str]) -> bool:
    """Tell whether a tool's file has a neighbour of one of these names.

    An installed package that the tool imports would get that, too, instead of the installed one.
    """
    for directory in neighbours.directories():
        with contextlib.suppress(OSError):
            if any(entry.partition(".")[0] in names for entry in os.listdir(directory)):
                return True
    return False
