"""Modules of tools' files in processes that a tool starts: a ``DataLoader``'s, with ``spawn``.

Such a process is a fresh Python, which is sent objects whose classes are in a module that no
search path has: :func:`~.tool_spec.load_tool_class` has made it of a file.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from typing import Any

VARIABLE = "GPUPOOL_TOOL_FILES"


def remember(name: str, path: str) -> None:
    """Tell processes that this one starts which file a tool's module was made of."""
    os.environ[VARIABLE] = json.dumps({**_files(), name: path})


def _files() -> dict[str, str]:
    try:
        files = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return files if isinstance(files, dict) else {}


class ToolFiles(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the modules that a process which started this one has made of tools' files."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a tool's module; None: it is none."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in _files() else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Return the module, which has been executed by then.

        Raises
        ------
        ImportError
            The file has changed meanwhile.
        """
        from snakemake_executor_gpupool.tool_api.tool_spec import load_file

        path = _files()[spec.name]
        module = load_file(path, path)
        if module.__name__ != spec.name:
            raise ImportError(f"{path} has changed since it was loaded")
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing more."""


def install() -> None:
    """Let this process import what the one that started it has made of tools' files."""
    if VARIABLE in os.environ and not any(isinstance(each, ToolFiles) for each in sys.meta_path):
        sys.meta_path.append(ToolFiles())
