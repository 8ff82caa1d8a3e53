"""Checking a tool's params, and its one input or output, with the same words everywhere.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job

WORDS = {"true": True, "yes": True, "false": False, "no": False}
PRECISIONS = ("fp32", "bf16", "fp16")


def seen_by_load(tool: Tool) -> dict[str, Any]:
    """Return all params as ``load`` may see them: those that choose the model, else defaults."""
    return {**tool.defaults, **tool.model_params()}


def seen_by_run(tool: Tool) -> dict[str, Any]:
    """Return all params as ``run`` may see them: those for files alone have their defaults."""
    return {**tool.defaults, **tool.model_params(), **tool.run_params()}


def wrong(name: str, value: Any, expected: str) -> InputError:
    """Return the error that says what a param was and what it could be."""
    return InputError(f"param {name}: got {value!r}; expected {expected}")


def text(params: Mapping[str, Any], name: str, expected: str) -> str:
    """Return a param that must be text or a path, and not empty."""
    value = params[name]
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise wrong(name, value, expected)
    return str(value)


def optional_text(params: Mapping[str, Any], name: str, expected: str) -> str:
    """Return a param that may be text or left out; empty if it is."""
    return "" if params[name] in (None, "") else text(params, name, expected)


def choice(params: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """Return a param that must be one of ``choices``."""
    value = params[name]
    if value not in choices:
        raise wrong(name, value, f"one of {', '.join(choices)}")
    return str(value)


def flag(params: Mapping[str, Any], name: str) -> bool:
    """Return a param that is true or false, or a word for it as a command line has."""
    value = params[name]
    known = WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise wrong(name, value, "true or false")
    return known


def whole(name: str, value: Any, at_least: int | None = None) -> int:
    """Return a value that must be a whole number, perhaps with a lowest one."""
    expected = "whole numbers" if at_least is None else f"a whole number from {at_least} on"
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        number = int(value)
    except (OverflowError, TypeError, ValueError):
        raise wrong(name, value, expected) from None
    if at_least is not None and number < at_least:
        raise wrong(name, value, expected)
    return number


def optional_whole(params: Mapping[str, Any], name: str, at_least: int) -> int | None:
    """Return a param that is a whole number, or None if it is left out."""
    value = params[name]
    return None if value in (None, "") else whole(name, value, at_least)


def one_file(tool: str, job: Job, kind: str, name: str) -> str:
    """Return the job's input or output of that name, or else its first.

    Raises
    ------
    InputError
        There is none, or several share the name.
    """
    files = getattr(job, kind)
    path = files.get(name, files[0] if files else None)
    if not isinstance(path, str):
        raise InputError(f"{tool} takes one {kind} file ({name}); got {path or 'none'}")
    return path


def named(tool: str, what: str, value: Any) -> tuple[str, str]:
    """Return id and text of what a caller of the Python API gives for an item.

    Parameters
    ----------
    tool, what
        Whose items they are, and what a message calls them: ``"sequences"``.
    value
        A text, which is named by its start, or an (id, text) pair.

    Raises
    ------
    InputError
        It is neither, or there is nothing in it.
    """
    pair = (value[:10], value) if isinstance(value, str) else value
    if not (isinstance(pair, tuple) and [type(part) for part in pair] == [str, str]):
        raise InputError(
            f"{tool} takes {what} or (id, {what.rstrip('s')}) pairs; got {value!r:.100}"
        )
    if not pair[1].strip():
        raise InputError(f"{tool}: the {what.rstrip('s')} {pair[0]!r} is empty")
    return pair
