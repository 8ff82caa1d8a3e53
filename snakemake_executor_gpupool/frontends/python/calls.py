"""A call from Python, looked at before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snakemake_executor_gpupool.tool_api.contract import why_no_list
from snakemake_executor_gpupool.tool_api.known_params import refuse_unknown
from snakemake_executor_gpupool.tool_api.tool import Tool

#: Arguments of a tool's function itself, which a call may take for params.
OF_THE_FUNCTION = ("device", "instance")


def check_call(tool_class: type[Tool], tool: str, items: Any, params: Iterable[str]) -> None:
    """Refuse a call whose items are no list, or whose params the tool does not know.

    Raises
    ------
    TypeError
        The message says what to write.
    """
    problem = why_no_list(items)
    if problem is not None:
        raise TypeError(
            f"{tool} takes a list of items; got {problem.what}.{problem.sentence('Give it')}"
        )
    check_params(tool_class, tool, params)


def check_params(tool_class: type[Tool], tool: str, params: Iterable[str]) -> None:
    """Refuse params that a tool does not know.

    Raises
    ------
    UnknownParam
        The message says which is nearest, and which there are.
    """
    names = list(params)
    misplaced = ", ".join(f"{name}=..." for name in OF_THE_FUNCTION if name in names)
    elsewhere = f"Write tool_function({tool!r}, {misplaced})" if misplaced else ""
    refuse_unknown(tool_class, tool, names, elsewhere)
