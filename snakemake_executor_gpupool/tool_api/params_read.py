"""Whether a tool may read all params at once, found in its source.

Who does sees which params a job has, even if it may read all of them: two jobs of which one has
more must then share nothing. What cannot be read is taken to do so.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from snakemake_executor_gpupool.tool_api.source import (
    Code,
    Test,
    is_name,
    is_super,
    node_of,
    reachable,
)

#: Methods of a mapping that look at one entry.
_BY_NAME = {"get", "pop", "setdefault"}
#: Methods of a mapping that look at all of it.
_WHOLE = {"keys", "values", "items", "copy", "popitem"}
#: How many calls a mapping of params is followed through.
_MAX_CALLS = 40


@functools.lru_cache(maxsize=256)
def reads_all_params(tool_class: type, method: str) -> bool:
    """Tell whether ``load`` or ``run`` may look at all params at once, not one by its name."""
    names = ("run",) if method == "run" else ("__init__", "load", "to")
    budget = [_MAX_CALLS]
    for code in reachable(tool_class, names):
        if code.node is None or _takes_all(code, _is_own_params(code.own), budget):
            return True
        if _hands_itself_on(code, budget):
            return True
        if code.function.__name__ == "__init__":
            arguments = [argument.arg for argument in code.node.args.args[1:]]
            if any(_takes_all(code, is_name(name), budget) for name in arguments):
                return True
    return False


def _hands_itself_on(code: Code, budget: list[int]) -> bool:
    """Tell whether a method gives its object to others who may look at all its params."""
    for call in ast.walk(code.node) if code.node is not None and code.own else ():
        if not isinstance(call, ast.Call) or _is_harmless(call):
            continue
        own = [part for part in _arguments(call) if is_name(code.own)(part)]
        if any(not _is_passed_on_well(code, call, part, budget, _is_own_params) for part in own):
            return True
    return False


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _is_harmless(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in ("getattr", "hasattr") and len(call.args) > 1:
        attribute = call.args[1]
        return isinstance(attribute, ast.Constant) and attribute.value != "params"
    return name in ("super", "type", "isinstance", "id", "print", "setattr")


def _is_own_params(own: str) -> Test:
    def is_it(expression: ast.AST) -> bool:
        is_attribute = isinstance(expression, ast.Attribute) and expression.attr == "params"
        return is_attribute and is_name(own)(expression.value)  # type: ignore[attr-defined]

    return is_it


def _takes_all(code: Code, is_it: Test, budget: list[int]) -> bool:
    """Tell whether a function may look at all entries of a mapping, given how it is written."""
    assert code.node is not None
    everything = list(ast.walk(code.node))
    parents = {child: parent for parent in everything for child in ast.iter_child_nodes(parent)}
    mentions = [each for each in everything if is_it(each) and isinstance(each.ctx, ast.Load)]  # type: ignore[attr-defined]
    return not all(_is_by_name(code, each, parents, budget) for each in mentions)


def _is_by_name(
    code: Code, expression: ast.AST, parents: dict[ast.AST, ast.AST], budget: list[int]
) -> bool:
    parent = parents[expression]
    if isinstance(parent, ast.Attribute):
        around = parents[parent]
        is_called = isinstance(around, ast.Call) and around.func is parent
        return parent.attr not in _WHOLE and (is_called or parent.attr not in _BY_NAME)
    if isinstance(parent, ast.Subscript):
        return parent.value is expression
    if isinstance(parent, ast.Compare):
        operators = [type(operator) for operator in parent.ops]
        return expression is not parent.left and operators in ([ast.In], [ast.NotIn])
    if isinstance(parent, ast.keyword) and parent.arg is not None:
        parent = parents[parent]
    return isinstance(parent, ast.Call) and _is_passed_on_well(code, parent, expression, budget)


def _is_passed_on_well(
    code: Code,
    call: ast.Call,
    expression: ast.AST,
    budget: list[int],
    mention: Callable[[str], Test] = is_name,
) -> bool:
    """Tell whether who is called with params looks at single ones alone.

    ``mention`` makes of an argument's name a test for what stands for the params.
    """
    budget[0] -= 1
    if isinstance(call.func, ast.Attribute) and is_super(call.func.value):
        return True  # the base's method is looked at by itself
    called = _resolved(call.func, code.function.__globals__)
    skipped = 1 if inspect.ismethod(called) else 0
    called = getattr(called, "__func__", called)
    node = node_of(called) if isinstance(called, types.FunctionType) and budget[0] >= 0 else None
    if node is None:
        return False
    names = [argument.arg for argument in node.args.args[skipped:]]
    given: list[Any] = [keyword.arg for keyword in call.keywords if keyword.value is expression]
    if expression in call.args:
        given = names[call.args.index(expression) :][:1]
    if not given or given[0] not in names:
        return False
    inner = Code(called, node, given[0] if mention is not is_name else "")
    return not (_takes_all(inner, mention(given[0]), budget) or _hands_itself_on(inner, budget))


def _resolved(node: ast.AST, names: dict[str, Any]) -> Any:
    """Return what a dotted name of a module stands for; None if that is not plain."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = _resolved(node.value, names) if isinstance(node, ast.Attribute) else None
    if not isinstance(owner, (type, types.ModuleType)):
        return None
    return getattr(owner, node.attr, None)  # type: ignore[attr-defined]
