"""State that a tool sets in one process and reads in another, found in its source.

The methods of a tool run on three objects, usually in three processes: ``read`` on one, ``load``
and ``run`` on another, ``write`` on a third. State that one of them sets on its object or in a
global does not exist for the others. Code that cannot be analysed is accepted, since a finding
refuses the tool.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import functools
import os
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

from snakemake_executor_gpupool.tool_api.source import Code, reachable

#: The methods that run on one object. ``cost``, ``tokens`` and ``rung`` may run on any.
STAGES = {
    "read()": ("read", "item", "key", "name"),
    "load() and run()": ("load", "run", "to", "batch_tokens", "shape_tokens"),
    "write()": ("write",),
}
#: Attributes that are set on every object.
_GIVEN = {"self.params", "self.device"}
#: Methods that change their object.
_CHANGING = {"append", "add", "extend", "insert", "update", "setdefault"}


class SharedState(NamedTuple):
    """State that one method sets and another, on another object, reads."""

    name: str
    set_by: str
    read_by: str

    def __str__(self) -> str:
        return (
            f"{self.read_by}() uses {self.name}, which {self.set_by}() sets. These two run on "
            "different objects, usually in different processes, so it does not exist there: "
            f"{_way_out(self.set_by, self.read_by)}"
        )


def _way_out(set_by: str, read_by: str) -> str:
    if read_by == "write":
        via = "let it be part of the results that run() returns, or find it out again in write()"
    elif set_by in STAGES["read()"]:
        via = f"let it be part of the items that read() gives, or find it out in {read_by}()"
    else:
        via = f"find it out in {read_by}() itself"
    return via


@functools.lru_cache(maxsize=256)
def shared_state(tool_class: type) -> SharedState | None:
    """Return state that is used where it does not exist; None: none was found."""
    uses = {stage: _uses_of_stage(tool_class, names) for stage, names in STAGES.items()}
    for stage, reads in uses.items():
        if reads.is_opaque:
            continue
        for other, sets in uses.items():
            for name in sorted(set(reads.loads) & set(sets.stores)) if other != stage else ():
                if name not in reads.stores and name not in _GIVEN:
                    return SharedState(name, sets.stores[name], reads.loads[name])
    return None


# -- state ----------------------------------------------------------------------
class _Uses:
    """Names of state that functions set and read, each with the method that does so."""

    def __init__(self) -> None:
        self.stores: dict[str, str] = {}
        self.loads: dict[str, str] = {}
        #: Whether the object itself is passed to other code, which may set anything on it.
        self.is_opaque = False


def _uses_of_stage(tool_class: type, names: Iterable[str]) -> _Uses:
    uses = _Uses()
    for name in names:
        for code in reachable(tool_class, (name,)):
            if code.node is None:
                uses.is_opaque = True
            else:
                _Visitor(code, tool_class, name, uses).visit_body()
    return uses


class _Visitor(ast.NodeVisitor):
    """Records what one function sets and reads on its object and in its module."""

    def __init__(self, code: Code, tool_class: type, method: str, uses: _Uses) -> None:
        assert code.node is not None
        self._body, self._own = code.node.body, code.own
        self._uses, self._method = uses, method
        self._classes = {klass.__name__ for klass in tool_class.__mro__[:-1]}
        self._globals = code.function.__globals__
        self._local = _local_names(code.node)

    def visit_body(self) -> None:
        """Visit the whole function."""
        for statement in self._body:
            self.visit(statement)

    def _store(self, name: str) -> None:
        self._uses.stores.setdefault(name, self._method)

    def _load(self, name: str) -> None:
        self._uses.loads.setdefault(name, self._method)

    def _place(self, node: ast.AST) -> str:
        """Return the name of the state that an expression refers to; empty: it is local."""
        if isinstance(node, ast.Attribute):
            if self._is_own(node.value):
                return f"self.{node.attr}"
            inner = self._place(node.value)
            is_local = bool(inner) and self._is_local(self._globals.get(inner))
            return f"{inner}.{node.attr}" if is_local else ""
        is_global = isinstance(node, ast.Name) and node.id not in self._local
        return node.id if is_global and node.id in self._globals else ""  # type: ignore[attr-defined]

    def _is_local(self, module: Any) -> bool:
        """Return whether an object is a module beside the tool's.

        What methods set in other modules (``os.environ``, ``sys.path``) is meant for libraries.
        """
        path, own = (getattr(module, "__file__", None), self._globals.get("__file__"))
        if not isinstance(module, types.ModuleType) or not path or not own:
            return False
        is_installed = {"site-packages", "dist-packages"} & set(path.split(os.sep))
        return not is_installed and path.startswith(os.path.dirname(own) + os.sep)

    def _is_own(self, node: ast.AST) -> bool:
        """Return whether an expression is the object itself, or its class."""
        if isinstance(node, ast.Name):
            return node.id == self._own or node.id in self._classes
        if isinstance(node, ast.Attribute):
            return node.attr == "__class__" and self._is_own(node.value)
        is_type = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return is_type and node.func.id == "type" and any(map(self._is_own, node.args))  # type: ignore[attr-defined]

    def visit_Attribute(self, node: ast.Attribute) -> None:
        place = self._place(node)
        if place:
            (self._load if isinstance(node.ctx, ast.Load) else self._store)(place)
            if place == "self.__dict__":
                self._uses.is_opaque = True
            if self._is_own(node.value):
                return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        place = self._place(node)
        if place:
            (self._load if isinstance(node.ctx, ast.Load) else self._store)(place)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        place = self._place(node.target)
        if place:
            self._load(place)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        place = self._place(node.value)
        if place and not isinstance(node.ctx, ast.Load):
            self._store(place)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _CHANGING:
            place = self._place(function.value)
            if place:
                self._store(place)
        is_getattr = isinstance(function, ast.Name) and function.id in ("getattr", "hasattr")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        named_super = isinstance(function, ast.Name) and function.id in ("super", "type")
        if not is_getattr and not named_super:
            is_self = [isinstance(a, ast.Name) and a.id == self._own for a in arguments]
            self._uses.is_opaque = self._uses.is_opaque or any(is_self)
        self.generic_visit(node)


def _local_names(node: ast.FunctionDef) -> set[str]:
    """Return names that a function binds itself, rather than its module."""
    names, elsewhere = set(), set()
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            names.add(each.id)
        elif isinstance(each, ast.arg):
            names.add(each.arg)
        elif isinstance(each, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in each.names}
        elif isinstance(each, ast.Global):
            elsewhere |= set(each.names)
    return names - elsewhere
