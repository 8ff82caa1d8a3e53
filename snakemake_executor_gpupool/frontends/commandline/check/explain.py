"""What to say of an error that a tool raised while it was tried."""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Named, Params

#: How a job gets what it lacks.
OPTIONS = {
    "input": "--input {key}=PATH",
    "output": "--output {key}=PATH",
    "params": "--param {key}=VALUE",
    "wildcards": "--wildcard {key}=VALUE",
}


def said(error: BaseException, tool_class: type[Tool]) -> str:
    """Return an error as a sentence: method and line of the tool's own file, kind and message."""
    return f"{where(error, tool_class)}{type(error).__name__}: {error}"


def where(error: BaseException, tool_class: type[Tool]) -> str:
    """Say in which method and line of the tool's own file an error was raised; else nothing."""
    frames = _own_frames(error, tool_class)
    return f"{frames[0].name}(), line {frames[-1].lineno}: " if frames else ""


def _own_frames(error: BaseException, tool_class: type[Tool]) -> list[traceback.FrameSummary]:
    """Return the frames in the files of a tool's class and of those that it derives from."""
    classes = tool_class.__mro__[: tool_class.__mro__.index(Tool)]
    files = {inspect.getfile(one) for one in classes}
    return [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]


# -- what the command line has not given ---------------------------------------------
def what_is_missing(error: BaseException) -> str | None:
    """Return which input, output, param or wildcard of its job a tool misses; None: none.

    The job is found among the variables of the frames where the error was raised.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    jobs = [v for frame, _ in frames for v in frame.f_locals.values() if isinstance(v, Job)]
    for frame, line in reversed(frames):
        for job in jobs:
            asked = _asked_in_vain(error, job, frame, line)
            if asked:
                return _with_option(*asked, job)
    return _own_param(error, [frame for frame, _ in frames])


def _own_param(error: BaseException, frames: Sequence[FrameType]) -> str | None:
    """Return which of a tool's own params is missing; None: none."""
    holders = [frame.f_locals.get("self") for frame in frames]
    tools = [holder for holder in holders if isinstance(holder, Tool)]
    name = getattr(error, "name", None) if isinstance(error, AttributeError) else None
    if isinstance(error, KeyError) and error.args:
        name = error.args[0]
    asked = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    for tool in tools:
        is_it = any(held is tool.params for held in (asked, *holders))
        if is_it and isinstance(name, str):
            return (
                f"the tool asks for the param {name!r} (self.params.{name}), which is not given "
                f"and has no default: add --param {name}=VALUE, or take the job from its rule, "
                "--rule NAME"
            )
    return None


def _asked_in_vain(
    error: BaseException, job: Job, frame: FrameType, line: int
) -> tuple[str, Any] | None:
    """Return which part of a job was asked, and for what, if a frame is one that did so."""
    held = frame.f_locals.get("self")
    if isinstance(held, (Named, Params)) and isinstance(error, (LookupError, AttributeError)):
        key = frame.f_locals.get("name", frame.f_locals.get("key"))
        part = next((name for name, value in vars(job).items() if value is held), None)
        return (part, key) if part else None
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        # A look-up by key in a plain mapping leaves no frame of its own.
        source = linecache.getline(frame.f_code.co_filename, line)
        for part in ("wildcards", "params", "resources"):
            if f".{part}[" in source and error.args[0] not in getattr(job, part):
                return part, error.args[0]
    return None


def _with_option(part: str, key: Any, job: Job) -> str:
    """Return what was asked for, and the option that gives it."""
    option = OPTIONS.get(part, "").format(key=key)
    if isinstance(key, str):
        asked = f"the {part.removesuffix('s')} {key!r} (job.{part}.{key}), which is not given"
    else:
        count = len(getattr(job, part))
        asked = f"job.{part}[{key}], and {count or 'none'} {'is' if count == 1 else 'are'} given"
        option = option.replace(f"{key}=", "")
    advice = f"add {option}, or take" if option else "take"
    return f"the tool asks for {asked}: {advice} the job from its rule, --rule NAME"
