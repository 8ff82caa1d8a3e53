"""Which params a tool knows, and what to say of one that it does not.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from snakemake_executor_gpupool.errors import UnknownParam
from snakemake_executor_gpupool.tool_api.nearest import did_you_mean, nearest
from snakemake_executor_gpupool.tool_api.source import own_classes

#: The param that may say which tool serves a rule.
TOOL_PARAM = "gpupool_tool"
#: Advice on a param that the tool does not declare.
DECLARE = "A param for read() or write() alone is named in write_params of the class"


@functools.lru_cache(maxsize=256)
def known_params(tool_class: Any) -> tuple[str, ...]:
    """Return the params that a tool's class names, and those that its source reads by name."""
    declared = [*tool_class.defaults, *tool_class.reload_on, *tool_class.write_params]
    return tuple(dict.fromkeys([*declared, *sorted(_read_by_name(tool_class))]))


def refuse_unknown(tool_class: Any, tool: str, names: Iterable[str], others: str = "") -> None:
    """Refuse params that a tool does not know.

    A class without ``defaults`` takes any, as long as it is not like one that it knows.

    Parameters
    ----------
    tool
        What the message calls it.
    others
        What to do with a name that the tool shall know.

    Raises
    ------
    UnknownParam
        The message says which params there are, and which one is nearest.
    """
    known = known_params(tool_class)
    takes_any = not tool_class.defaults
    unknown = [
        f"{tool} has no param {name!r}.{did_you_mean(name, known)}"
        for name in names
        if name not in {*known, TOOL_PARAM} and not (takes_any and nearest(name, known) is None)
    ]
    if unknown:
        there = f"It takes {', '.join(known)}" if known else "It takes none"
        raise UnknownParam(" ".join([*unknown, f"{there}.", others]).strip())


def likely_misspelt(tool_class: Any, names: Iterable[str]) -> list[str]:
    """Return a sentence for each param of a rule that seems to be one of the tool's, misspelt.

    Other params are the job's own. If the similar param is given too, it is not a misspelling.
    """
    given, known = set(names), known_params(tool_class)
    sentences = []
    for name in sorted(given - {*known, TOOL_PARAM}):
        meant = nearest(name, known)
        if meant is not None and meant not in given:
            sentences.append(
                f"the param {name!r} means nothing to {tool_class.__name__}; "
                f"did you mean {meant!r}? It takes {', '.join(known)}"
            )
    return sentences


# -- source ---------------------------------------------------------------------
def class_nodes(tool_class: type) -> Iterator[ast.AST]:
    """Yield all parts of the files that a class and its bases are written in, where they are."""
    for path in {_file_of(klass) for klass in own_classes(tool_class)} - {""}:
        yield from _parsed(path)


def _file_of(klass: type) -> str:
    try:
        return inspect.getsourcefile(klass) or ""
    except TypeError:  # built in, or made by a program
        return ""


@functools.lru_cache(maxsize=32)
def _parsed(path: str) -> list[ast.AST]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a worker's log is no place for a linter
            return list(ast.walk(ast.parse("".join(linecache.getlines(path)))))
    except (SyntaxError, ValueError):
        return []


def _read_by_name(tool_class: type) -> set[str]:
    """Return names that are asked for of something called ``params``."""
    names: set[str] = set()
    for node in class_nodes(tool_class):
        if isinstance(node, ast.Attribute) and _is_params(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.Subscript) and _is_params(node.value):
            names |= _texts([node.slice])
        elif isinstance(node, ast.Call):
            function = node.func
            is_method = isinstance(function, ast.Attribute) and _is_params(function.value)
            if is_method or any(map(_is_params, node.args)):
                names |= _texts(node.args)
        elif isinstance(node, ast.Compare) and any(map(_is_params, node.comparators)):
            names |= _texts([node.left])
    return names - set(dir(dict))


def _is_params(node: ast.AST) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) == "params"


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    """Return those that are constant texts."""
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and value.isidentifier()}
