"""Checks of a rule's tool before any worker starts: whether its file and class exist.

None of the tool's code runs here: it may need the rule's own environment, and take seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.software import Unservable, software_of
from snakemake_executor_gpupool.frontends.snakemake.translate import resolved, source_of_tool
from snakemake_executor_gpupool.tool_api.nearest import did_you_mean
from snakemake_executor_gpupool.tool_api.tool_spec import split_spec

#: Statements whose inner ones are the module's own.
BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While)


def check_tool(workflow: Any, job: Any) -> None:
    """Check the tool that a served job names.

    Raises
    ------
    Unservable, UnknownTool
        No worker could ever serve it; the message says why.
    """
    spec = source_of_tool(workflow, job)
    place, class_name = split_spec(spec)
    # Also asks conda for its version, and reads images, once, before any job waits for it.
    software = software_of(workflow, job, sys.executable)
    has_own_python = bool(software.environment) or software.container is not None
    if place.endswith(".py"):
        resolved(spec)
        problem = problem_of_file(place, class_name, own_python=not has_own_python)
    elif class_name:
        problem = "" if has_own_python else problem_of_module(place, class_name)
    else:
        resolved(spec)
        problem = ""
    if problem:
        raise Unservable(f"tool {spec!r}: {problem}")


def problem_of_file(path: str, class_name: str, *, own_python: bool = True) -> str:
    """Return why a file has no tool of that name; empty: it may have one.

    Parameters
    ----------
    class_name
        Empty: the file's only tool.
    own_python
        Whether it runs under this Python; another version may accept syntax that this one rejects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(Path(path).read_bytes())
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{path} is not valid Python{line}: {what}" if own_python else ""
    names = dict(_bound(module.body))
    if "*" in names or "__getattr__" in names or _binds_by_name(module):
        return ""  # whatever else it defines shows only when it runs
    if class_name:
        return _problem_of_class(names, class_name, path)
    return _problem_of_only_class(names, path)


def problem_of_module(name: str, class_name: str) -> str:
    """Return why a module has no tool of that name; empty: it may have one."""
    top, _, rest = name.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return f"there is no module {top!r}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    path = Path(spec.origin)
    if rest:
        inner = path.parent.joinpath(*rest.split("."))
        files = [inner.with_suffix(".py"), inner / "__init__.py"]
        there = [file for file in files if file.is_file()]
        if not there:
            return ""  # it may be a compiled or generated module
        path = there[0]
    return problem_of_file(str(path), class_name)


def _problem_of_only_class(names: dict[str, ast.AST], path: str) -> str:
    classes = _classes(names)
    direct = [name for name in classes if _is_direct(names[name])]
    if not classes:
        return f"{path} defines no subclass of snakemake_executor_gpupool.Tool"
    if len(direct) < 2:  # classes derived from these show only when it runs
        return ""
    specs = ", ".join(f"{Path(path).name}:{name}" for name in direct)
    return f"{path} holds {len(direct)} tools; say which: {specs}"


def _classes(names: dict[str, ast.AST]) -> list[str]:
    return [name for name, node in names.items() if isinstance(node, ast.ClassDef)]


def _problem_of_class(names: dict[str, ast.AST], class_name: str, path: str) -> str:
    classes = _classes(names)
    outer, _, inner = class_name.partition(".")
    if outer not in names:
        there = ", ".join(classes) or "none"
        meant = did_you_mean(class_name, classes)
        return f"{path} has no class {class_name!r}.{meant} Its classes: {there}"
    node = names[outer]
    is_plain = isinstance(node, ast.ClassDef) and not (
        node.bases or node.keywords or node.decorator_list
    )
    if not inner and (is_plain or isinstance(node, ast.FunctionDef)):
        return (
            f"{class_name!r} of {path} is not a tool; "
            "a tool is a subclass of snakemake_executor_gpupool.Tool"
        )
    return ""


def _bound(statements: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a module's statements bind, each with the binding node."""
    for statement in statements:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement.name, statement
            continue
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                yield (alias.asname or alias.name).partition(".")[0], statement
            continue
        for node in ast.walk(statement) if not isinstance(statement, BLOCKS) else ():
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, statement
        if isinstance(statement, BLOCKS):
            for name in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from _bound(handler.body)


def _binds_by_name(module: ast.Module) -> bool:
    called = (node.func for node in ast.walk(module) if isinstance(node, ast.Call))
    return any(isinstance(f, ast.Name) and f.id in ("exec", "globals", "setattr") for f in called)


def _is_direct(node: ast.AST) -> bool:
    """Return whether a class derives directly from Tool."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return any("Tool" in (getattr(b, "id", ""), getattr(b, "attr", "")) for b in bases)
