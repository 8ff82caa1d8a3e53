"""Modules of tools' files in processes that a tool starts, such as a ``DataLoader`` with ``spawn``.

Such a process is a fresh Python. It receives objects whose classes are in a module that is on no
search path: :func:`~.tool_spec.load_tool_class` has created it from a file.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from typing import Any

from snakemake_executor_gpupool.tool_api.tool_file import VARIABLE, load_file, recorded_files


class ToolFiles(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Creates the modules of tools' files that the parent process has created."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a tool's module; None: it is not one."""
        is_ours = fullname in recorded_files()
        return importlib.util.spec_from_loader(fullname, self) if is_ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Return the module, already executed.

        Raises
        ------
        ImportError
            The file has changed meanwhile.
        """
        path = recorded_files()[spec.name]
        module = load_file(path, path)
        if module.__name__ != spec.name:
            raise ImportError(f"{path} has changed since it was loaded")
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: :meth:`create_module` has executed it."""


def install() -> None:
    """Let this process import the modules of tools' files of its parent process."""
    if VARIABLE in os.environ and not any(isinstance(each, ToolFiles) for each in sys.meta_path):
        sys.meta_path.append(ToolFiles())
