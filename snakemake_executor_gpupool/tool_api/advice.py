"""Advice added to an error's message: the likely mistake, and what to do about it.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import linecache
import re
from typing import Any

from snakemake_executor_gpupool.tool_api.nearest import did_you_mean

#: Methods of the object that reads, and of the one that writes.
OF_FILES = ("read", "item", "key", "name", "cost", "tokens", "write")
SNAKEMAKE = (
    "`snakemake` is None while a rule is served: read(job) and write(job, results) have its input, "
    "output, params, wildcards and log as job.input and so on, load() and run() the params as "
    "self.params"
)
LISTS = "job.input, job.output and job.log are lists: take job.output[0], or job.output.NAME"
ENDED = (
    "A process that the tool has started ended by itself; what it printed is at the end of the "
    "worker's log. Without processes (num_workers=0) the error itself is shown"
)


def advice_on(error: BaseException) -> str:
    """Return a sentence on the mistake behind an error; empty: none is known."""
    try:
        return _advice_on(error)
    except Exception:  # ``str`` of a foreign object may fail
        return ""


def _advice_on(error: BaseException) -> str:
    words = str(error)
    if _is_about_snakemake(error, words):
        return SNAKEMAKE
    if isinstance(error, TypeError) and re.search(r"\bnot '?(list|Named)\b", words):
        return LISTS if "Named" in words else ""
    if isinstance(error, AttributeError):
        return _on_attribute(error)
    if re.search(r"DataLoader worker .* exited unexpectedly", words):
        return ENDED
    return ENDED if type(error).__name__ == "BrokenProcessPool" else ""


def _is_about_snakemake(error: BaseException, words: str) -> bool:
    if isinstance(error, ImportError) and str(error.name).startswith("snakemake"):
        return not str(error.name).startswith("snakemake_")
    if not isinstance(error, (AttributeError, TypeError)) or "NoneType" not in words:
        return False
    frame, line = _last_line(error)
    if frame is None or not re.search(r"\bsnakemake\b", line):
        return False
    return {**frame.f_globals, **frame.f_locals}.get("snakemake", "") is None


def _last_line(error: BaseException) -> tuple[Any, str]:
    """Return the frame that raised an error, and its line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return None, ""
    return trace.tb_frame, linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _on_attribute(error: AttributeError) -> str:
    """Return why an attribute of a tool does not exist."""
    from snakemake_executor_gpupool.tool_api.tool import Tool

    tool, name = getattr(error, "obj", None), getattr(error, "name", None)
    if not isinstance(tool, Tool) or not isinstance(name, str):
        return ""
    method = _method(error, tool)
    if method in OF_FILES:
        return (
            f"What load() and run() leave on self is not there in {method}(), which runs on "
            "another object, as a rule in another process: find it out there again, or let it be "
            "part of the results"
        )
    public = {each for each in (*vars(tool), *dir(type(tool))) if not each.startswith("__")}
    return did_you_mean(name, public).strip()


def _method(error: BaseException, tool: Any) -> str:
    """Return the method of a tool that raised an error; empty: none of them."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_locals.get("self") is tool and not name:
            name = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return name
