"""From the name a rule gives in ``gpupool_tool`` to the tool's class.

Three forms::

    esm2-embed                   installed: entry-point group snakemake_executor_gpupool.tools
    package.module:Class         importable
    path/to/file.py:Class        a file; relative to the Snakefile that defines the rule

``:Class`` may be left out after a file that defines just one tool. A file may be
a rule's own ``script:``, ending in ``MyTool.main(snakemake)``: while it is loaded,
``snakemake`` is None and that call does nothing.

Runs in worker processes too: standard library only, Python >= 3.9.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import os
import threading
import types
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api.class_checks import why_unusable
from snakemake_executor_gpupool.tool_api.shared_state import shared_state
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_file import failed_import, load_file

ENTRY_POINT_GROUP = "snakemake_executor_gpupool.tools"

#: One thread at a time runs a tool's file: meanwhile its module, and the names that a script sees,
#: exist only in part.
_loading = threading.RLock()


def _new_lock() -> None:
    global _loading  # noqa: PLW0603 - a forked child has none of the threads that may hold it
    _loading = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)


def load_tool_class(spec: str, base_dir: str | None = None, *, checked: bool = True) -> type[Tool]:
    """Return the tool class that ``spec`` names.

    Parameters
    ----------
    spec
        An installed tool's name, ``package.module:Class`` or ``path/to/file.py:Class``.
    base_dir
        What a relative path to a file starts from; None: the working directory.
    checked
        Whether to refuse a class that :func:`check_state` finds wrong.

    Raises
    ------
    UnknownTool
        The tool, file or class does not exist, the class is not a :class:`Tool`, or its module
        cannot be imported. The message says which, and what exists.
    """
    place, class_name = split_spec(resolve_spec(spec, base_dir))
    is_file = _is_file(place)
    if is_file:
        with _loading:
            module = load_file(place, spec)
    else:
        module = _import_module(place, spec)
    is_named = class_name or not is_file
    tool_class = _tool_in(module, class_name, spec) if is_named else _only_tool(module, spec)
    if checked:
        check_state(tool_class, f"tool {spec!r}: ")
    return tool_class


def check_state(tool_class: type[Tool], head: str = "") -> None:
    """Refuse a class whose methods cannot work as they are called.

    Raises
    ------
    UnknownTool
        A method uses what only another one, on another object, has; or the class has what
        cannot be meant, as :func:`~.class_checks.why_unusable` finds it.
    """
    kind: Any = tool_class
    problem = why_unusable(kind)
    if problem is not None:
        raise UnknownTool(f"{head}{problem}")
    state = shared_state(kind)
    if state is not None:
        raise UnknownTool(f"{head}{kind.__name__}: {state}")


def resolve_spec(spec: str, base_dir: str | None = None) -> str:
    """Return ``spec`` in a form that needs neither entry points nor ``base_dir``.

    A worker in a rule's own environment sees no entry points of the
    environment that Snakemake runs in.

    Raises
    ------
    UnknownTool
        No tool of that name is installed, or there is no such file.
    """
    place, class_name = split_spec(spec)
    if _is_file(place):
        path = Path(base_dir or "", Path(place).expanduser()).resolve()
        if not path.is_file():
            raise UnknownTool(f"tool {spec!r}: there is no file {path}")
        return f"{path}:{class_name}" if class_name else str(path)
    if class_name:
        return spec
    return _installed_target(spec)


def split_spec(spec: str) -> tuple[str, str]:
    """Split a spec into where the class is and the class's name, which may be empty."""
    place, colon, class_name = spec.strip().rpartition(":")
    if not colon or os.sep in class_name or class_name.endswith(".py"):
        return spec.strip(), ""
    return place, class_name


def installed_tools() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Return the entry points of installed tools by name; several share one only by mistake."""
    points: Any = importlib.metadata.entry_points()
    # Python 3.9 returns a plain dict of groups.
    old = not hasattr(points, "select")
    group = points.get(ENTRY_POINT_GROUP, ()) if old else points.select(group=ENTRY_POINT_GROUP)
    tools: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in group:
        same_name = tools.setdefault(point.name, [])
        if point.value not in [other.value for other in same_name]:
            same_name.append(point)
    return dict(sorted(tools.items()))


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _installed_target(name: str) -> str:
    tools = installed_tools()
    if name not in tools:
        raise UnknownTool(_unknown_name(name, list(tools)))
    targets = [point.value for point in tools[name]]
    if len(targets) > 1:
        raise UnknownTool(
            f"tool {name!r} is offered by several installed packages; "
            f"name the one you mean: {', '.join(targets)}"
        )
    return targets[0]


def _unknown_name(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"there is no tool {name!r}.{hint} Installed tools: {', '.join(known) or 'none'}. "
        "A tool of your own is named package.module:Class or path/to/file.py:Class."
    )


# -- loading -----------------------------------------------------------------
def _import_module(name: str, spec: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise failed_import(spec, name, error) from error


# -- the class -----------------------------------------------------------------
def _tool_in(module: types.ModuleType, class_name: str, spec: str) -> type[Tool]:
    value: Any = module
    for part in class_name.split("."):
        value = getattr(value, part, None)
    if value is None:
        names = ", ".join(_tool_classes(module)) or "none"
        raise UnknownTool(
            f"tool {spec!r}: {_home(module)} has no class {class_name!r}; its tools: {names}"
        )
    if not _is_tool(value):
        raise UnknownTool(
            f"tool {spec!r}: {class_name!r} of {_home(module)} is not a tool; "
            "a tool is a subclass of snakemake_executor_gpupool.Tool"
        )
    return value  # type: ignore[no-any-return]  # _is_tool has checked it


def _only_tool(module: types.ModuleType, spec: str) -> type[Tool]:
    classes = _tool_classes(module)
    if len(classes) == 1:
        return next(iter(classes.values()))
    names = ", ".join(f"{spec}:{name}" for name in classes)
    advice = f"say which: {names}" if classes else "it defines no subclass of Tool"
    raise UnknownTool(f"tool {spec!r}: {_home(module)} holds {len(classes)} tools; {advice}")


def _tool_classes(module: types.ModuleType) -> dict[str, type[Tool]]:
    """Return the tools a module defines itself, not those it imported to derive from."""
    return {
        name: value
        for name, value in vars(module).items()
        if _is_tool(value) and value.__module__ == module.__name__
    }


def _is_tool(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Tool) and value is not Tool


def _home(module: types.ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__
