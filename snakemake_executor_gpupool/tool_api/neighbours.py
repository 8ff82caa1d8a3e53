"""Modules beside a tool's file: which it imports, each as it is now, one of a name in a process.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.errors import UnknownTool

_machinery = importlib.machinery

#: Directories of tools' files.
_DIRECTORIES: set[str] = set()
#: By name: the neighbour that tools of this process mean, and the first such tool.
_MEANT: dict[str, tuple[str, str]] = {}


def directories() -> frozenset[str]:
    """Return the directories of the tools' files that this process has loaded."""
    return frozenset(_DIRECTORIES)


@contextlib.contextmanager
def beside(path: str, source: bytes, spec: str) -> Iterator[None]:
    """Let a tool's file import its neighbours: first while it loads, then after all else.

    The second is for imports inside ``load()``; last, because a neighbour called
    ``numpy.py`` must not hide numpy from anyone else in this process.

    Raises
    ------
    UnknownTool
        Another tool of this process imports another module of the same name.
    """
    directory = os.path.dirname(path)
    _refuse_two_of_a_name(directory, source, spec)
    _read_anew(directory)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
        if directory not in sys.path:
            sys.path.append(directory)


def _refuse_two_of_a_name(directory: str, source: bytes, spec: str) -> None:
    """Python has one module of a name: the second tool would get the first one's, unnoticed."""
    for name in _imported(source):
        file = _neighbour(directory, name)
        if not file:
            continue
        meant, other = _MEANT.setdefault(name, (file, spec))
        if meant != file:
            raise UnknownTool(
                f"tool {spec!r} imports {name} from {file}, and tool {other!r} from {meant}; a "
                "process has one module of a name: give one of them another name"
            )


def _imported(source: bytes) -> set[str]:
    """Return the top names that a file imports, at any depth."""
    names: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when it is compiled
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return names  # as the import will tell
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _neighbour(directory: str, name: str) -> str:
    for file in (
        os.path.join(directory, name, "__init__.py"),
        os.path.join(directory, f"{name}.py"),
    ):
        if os.path.isfile(file):
            return os.path.realpath(file)
    return ""


# -- as they are now --------------------------------------------------------------
class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles a file each time: Python's cache takes some edits for none.

    One that keeps the size, and the time to the second, is such; results are kept by the content.
    """

    def path_stats(self, path: Any) -> Any:
        raise OSError("not cached")


def _read_anew(directory: str) -> None:
    if not _DIRECTORIES:
        sys.path_hooks.insert(0, _finder)
    if directory not in _DIRECTORIES:
        _DIRECTORIES.add(directory)
        sys.path_importer_cache.pop(directory, None)


def _finder(path: str) -> importlib.machinery.FileFinder:
    parts = path.split(os.sep)
    is_installed = "site-packages" in parts or "dist-packages" in parts
    is_near = any(path == each or path.startswith(each + os.sep) for each in _DIRECTORIES)
    if is_installed or not is_near or not os.path.isdir(path):
        raise ImportError("left to Python's own finder", path=path)
    return _machinery.FileFinder(
        path,
        (_machinery.ExtensionFileLoader, _machinery.EXTENSION_SUFFIXES),
        (_Uncached, _machinery.SOURCE_SUFFIXES),
        (_machinery.SourcelessFileLoader, _machinery.BYTECODE_SUFFIXES),
    )
