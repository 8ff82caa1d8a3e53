"""A tool's file as a module, executed once for each content.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api.advice import advice_on
from snakemake_executor_gpupool.tool_api.neighbours import beside

#: Tells processes that this one starts which file each module of a tool is.
VARIABLE = "GPUPOOL_TOOL_FILES"


def load_file(path: str, spec: str) -> types.ModuleType:
    """Return the module that a tool's file is, executed once for each content.

    Raises
    ------
    UnknownTool
        It cannot be read, or fails to import.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnknownTool(f"tool {spec!r}: cannot read {path}: {error.strerror}") from error
    name = _module_name(path, content)
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UnknownTool(f"tool {spec!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    module.__dict__["snakemake"] = None
    sys.modules[name] = module
    _remember(name, path)
    try:
        with beside(path, content, spec), _script_names():
            # Not by the loader: its cache takes an edit within a second that keeps the size for
            # no edit, and the name would stand for another content.
            exec(compile(content, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, UnknownTool):
            raise
        raise failed_import(spec, path, error) from error
    return module


def _module_name(path: str, content: bytes) -> str:
    """Name a file's module by path and content.

    The same in every process, because items pickled by the process that read
    them are unpickled by the one that holds the model; another after an edit.
    """
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + content)
    return f"gpupool_tool_{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _script_names() -> Iterator[None]:
    """Let ``from snakemake.script import snakemake`` succeed, and give None.

    Scripts have that line for their editor's sake. Importing the real package
    would be slow, and in a rule's own environment it is not there.
    """
    stubs = {name: types.ModuleType(name) for name in ("snakemake", "snakemake.script")}
    stubs["snakemake"].__dict__.update(script=stubs["snakemake.script"], __path__=[])
    stubs["snakemake.script"].__dict__["snakemake"] = None
    replaced = {name: sys.modules.get(name) for name in stubs}
    if replaced["snakemake"] is not None:
        del stubs["snakemake"]
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in stubs:
            _put_back(name, replaced[name])


def _put_back(name: str, module: types.ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _remember(name: str, path: str) -> None:
    """Record, for processes that this one starts, the file of a tool's module."""
    os.environ[VARIABLE] = json.dumps({**recorded_files(), name: path})


def recorded_files() -> dict[str, str]:
    """Return the files of tools that this process's parent has loaded, by module name."""
    try:
        files = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return files if isinstance(files, dict) else {}


def failed_import(spec: str, place: str, error: BaseException) -> UnknownTool:
    """Return the error for a tool whose module cannot be imported."""
    advice = advice_on(error)
    return UnknownTool(
        f"tool {spec!r}: importing {place} failed with {type(error).__name__}: {error}"
        + _where(error, place)
        + (f". {advice}" if advice else "")
    )


def _where(error: BaseException, place: str) -> str:
    """Name the line of the tool's own file that an import failed at."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == place:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
