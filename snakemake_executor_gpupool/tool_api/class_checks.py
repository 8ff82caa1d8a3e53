"""Checks of a tool's class before anything is called.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.known_params import class_nodes
from snakemake_executor_gpupool.tool_api.methods import METHODS, REQUIRED, missing_method, own_names
from snakemake_executor_gpupool.tool_api.nearest import nearest
from snakemake_executor_gpupool.tool_api.reproducible import WAYS
from snakemake_executor_gpupool.tool_api.tolerance import why_no_tolerance
from snakemake_executor_gpupool.tool_api.tool import Tool

#: Attributes that are names in an order; a text would be taken letter by letter.
NAMES = ("devices", "reload_on", "write_params")
#: Attributes that are true or false; any text would be true.
FLAGS = ("deterministic", "persistent", "pads")
DEVICES = ("cuda", "cpu")
#: How similar a name must be to one of ours: classes have names of their own too.
CLOSE = 0.85


@functools.lru_cache(maxsize=256)
def why_unusable(tool_class: type) -> str | None:
    """Return what is wrong with a class, in a sentence; None: nothing was found."""
    # Only the first problem: others may follow from it.
    for problem in itertools.chain(_attributes(tool_class), _methods(tool_class)):
        return f"{tool_class.__name__}: {problem}"
    return None


def refuse_missing(tool_class: type, names: tuple[str, ...] = REQUIRED) -> None:
    """Refuse a class that lacks a method without which no job can be done.

    Raises
    ------
    ContractError
        The message says which, and whether it may be misspelt.
    """
    missing = missing_method(tool_class, Tool, names)
    if missing:
        raise ContractError(missing)


@functools.lru_cache(maxsize=256)
def remarks_on(tool_class: type) -> tuple[str, ...]:
    """Return warnings of attributes that resemble those of :class:`Tool`, misspelt.

    Attributes that the class itself uses are its own.
    """
    ours = {name for name in dir(Tool) if not name.startswith("_")} | {"to"}
    own = own_names(tool_class)
    used = {node.attr for node in class_nodes(tool_class) if isinstance(node, ast.Attribute)}
    remarks = []
    for name in sorted(own - ours - used):
        meant = nearest(name, ours - own, CLOSE)
        if meant is not None:
            remarks.append(f"{tool_class.__name__}.{name} means nothing; did you mean {meant!r}?")
    return tuple(remarks)


def _attributes(tool_class: Any) -> Iterator[str]:
    yield from _names(tool_class)
    yield from _values(tool_class)


def _names(tool_class: Any) -> Iterator[str]:
    for name in NAMES:
        value = getattr(tool_class, name)
        if isinstance(value, str):
            instead = f'write {name} = ("{value}",)'
            yield f"{name} is the text {value!r}, taken letter by letter; {instead}"
        elif not isinstance(value, (list, tuple, set, frozenset)):
            yield f"{name} is {value!r}; it must be a tuple of names"
        elif not all(isinstance(each, str) for each in value):
            yield f"{name} is {value!r}; each of its names must be a text"
    yield from _unknown_devices(tool_class.devices)
    if not isinstance(tool_class.defaults, Mapping):
        yield f"defaults is {tool_class.defaults!r}; it must be a dict of names and values"
    elif not all(isinstance(name, str) for name in tool_class.defaults):
        yield f"defaults is {dict(tool_class.defaults)!r}; each of its names must be a text"


def _values(tool_class: Any) -> Iterator[str]:
    for name in FLAGS:
        if not isinstance(getattr(tool_class, name), (bool, int)):
            yield f"{name} is {getattr(tool_class, name)!r}; it must be True or False"
    yield from _numbers(tool_class)


def _numbers(tool_class: Any) -> Iterator[str]:
    most, tolerance = tool_class.max_batch_tokens, tool_class.tolerance
    if most is not None and (not isinstance(most, int) or most < 1):
        yield f"max_batch_tokens is {most!r}; it must be a whole number from 1 on, or None"
    problem = why_no_tolerance(tolerance)
    if problem:
        yield f"tolerance is {tolerance!r}; {problem}"
    way = tool_class.reproducible
    if way not in (*WAYS, None):
        ways = ", ".join(f'"{each}"' for each in WAYS)
        yield f"reproducible is {way!r}; it must be one of {ways}, or None"


def _unknown_devices(devices: Any) -> Iterator[str]:
    there = "it names what the model can run on, 'cuda' and 'cpu', the preferred first"
    if isinstance(devices, (set, frozenset)):
        yield f"devices is a set, which has no order; {there}"
    if not set(devices) & set(DEVICES):
        yield f"devices is {devices!r}; {there}"
    for each in devices:
        # Those of other makers are passed over: a tool may name them for other callers.
        if each not in DEVICES and ("gpu" in each.lower() or nearest(each, DEVICES)):
            yield f"devices has {each!r}; {there}"


def _methods(tool_class: Any) -> Iterator[str]:
    for name, arguments in METHODS.items():
        method = inspect.getattr_static(tool_class, name, None)
        if method is None and name == "to":
            continue
        called = f"{name}({', '.join(arguments)})"
        written = f"def {name}({', '.join(('self', *arguments))})"
        if isinstance(method, (staticmethod, classmethod)):
            method = getattr(tool_class, name)
            given: tuple[str, ...] = arguments
        else:
            # What is no function of Python's, as len, is called without the object.
            given = ("self", *arguments) if hasattr(method, "__get__") else arguments
        if not callable(method):
            if not hasattr(type(method), "__get__"):
                yield f"{name} is {method!r}, and is called as {called}; write {written}"
            continue
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            yield f"{name} is async; write {written}, without async"
        elif not _takes(method, given):
            yield (
                f"def {name}{inspect.signature(method)} cannot be called as {called}; "
                f"write {written}"
            )


def _takes(method: Any, arguments: tuple[str, ...]) -> bool:
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # nothing is known of it
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
