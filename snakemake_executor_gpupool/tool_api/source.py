"""The source of a tool's methods and of the functions that they call.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import tokenize
import types
import warnings
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

Test = Callable[[ast.AST], bool]


class Code(NamedTuple):
    """A function, its definition if there is source, and its name for the tool's object."""

    function: Any
    node: ast.FunctionDef | None
    own: str


def reachable(tool_class: type, names: Iterable[str]) -> list[Code]:
    """Return the methods of those names, and the functions of the tool's modules that they call."""
    modules = {klass.__module__ for klass in own_classes(tool_class)}
    reached: dict[types.FunctionType, Code] = {}
    waiting = [code for name in names for code in _methods(tool_class, name)]
    while waiting:
        code = waiting.pop()
        if code.function in reached:
            continue
        reached[code.function] = code
        for called in ast.walk(code.node) if code.node is not None else ():
            if isinstance(called, ast.Attribute):
                is_own = is_name(code.own)(called.value) or is_super(called.value)
                waiting += _methods(tool_class, called.attr) if is_own else []
            elif isinstance(called, ast.Name):
                value = code.function.__globals__.get(called.id)
                if isinstance(value, types.FunctionType) and value.__module__ in modules:
                    waiting.append(Code(value, node_of(value), ""))
    return list(reached.values())


def own_classes(tool_class: type) -> list[type]:
    """Return a class and its bases, without :class:`Tool` and its bases."""
    mine = __name__.rpartition(".")[0]
    return [
        klass
        for klass in tool_class.__mro__
        if klass is not object and not klass.__module__.startswith(mine)
    ]


def _methods(tool_class: type, name: str) -> list[Code]:
    """Return all definitions of a method, the class's own and its bases'."""
    codes = []
    for klass in own_classes(tool_class):
        value: Any = vars(klass).get(name)
        is_static = isinstance(value, staticmethod)
        value = value.fget if isinstance(value, property) else value
        value = getattr(value, "__func__", value)
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType):
            node = node_of(value)
            own = _own_name(node) if node is not None and not is_static else ""
            codes.append(Code(value, node, own))
    return codes


def node_of(function: types.FunctionType) -> ast.FunctionDef | None:
    """Return a function's definition; None: there is no source."""
    path, first = function.__code__.co_filename, function.__code__.co_firstlineno
    try:
        status = os.stat(path)
    except OSError:
        return None
    definitions = _definitions(path, status.st_mtime_ns, status.st_size)
    for node in definitions.get(function.__qualname__, ()):
        if first in (node.lineno, *(each.lineno for each in node.decorator_list)):
            return node
    return None


@functools.lru_cache(maxsize=64)
def _definitions(path: str, *_version: int) -> dict[str, list[ast.FunctionDef]]:
    """Return the functions of a file by their qualified names."""
    by_name: dict[str, list[ast.FunctionDef]] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.ClassDef):
                inner = f"{prefix}{child.name}."
            elif isinstance(child, ast.FunctionDef):
                by_name.setdefault(f"{prefix}{child.name}", []).append(child)
                inner = f"{prefix}{child.name}.<locals>."
            if not isinstance(child, ast.expr):
                walk(child, inner)

    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # syntax warnings do not belong into a worker's log
            walk(ast.parse(file.read()), "")
    except (OSError, SyntaxError, ValueError):
        pass  # not Python, or gone
    return by_name


def _own_name(node: ast.FunctionDef) -> str:
    arguments = [*node.args.posonlyargs, *node.args.args]
    return arguments[0].arg if arguments else ""


def is_name(name: str) -> Test:
    """Return a test of whether an expression is that name."""
    return lambda expression: isinstance(expression, ast.Name) and expression.id == name


def is_super(node: ast.AST) -> bool:
    """Tell whether an expression is ``super()``."""
    return isinstance(node, ast.Call) and is_name("super")(node.func)
