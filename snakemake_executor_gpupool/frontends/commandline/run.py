"""``gpupool run``: one job, cold, from the command line's arguments."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, InputError
from snakemake_executor_gpupool.frontends.commandline.job_words import (
    build_job,
    check_inputs,
    device_option,
    mode_asked,
    open_log,
)
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_FAILED,
    complain,
    put,
)
from snakemake_executor_gpupool.tool_api.known_params import DECLARE, refuse_unknown
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker import numerics
from snakemake_executor_gpupool.worker.cold import run_cold


def run(options: argparse.Namespace) -> int:
    """Do the job of the parsed command line and return the exit code."""
    mode = choose_mode(options)
    job = build_job(options)
    device = device_option(options.device or os.environ.get("GPUPOOL_DEVICE"))
    started_s = time.perf_counter()
    with captured(options.log):
        tool_class = load_tool_class(options.tool)
        refuse_unknown(tool_class, options.tool, job.params, DECLARE)
        failure = attempt(tool_class, job, device)
    done: dict[str, Any] = {
        "status": "failed" if failure else "done",
        "tool": options.tool,
        "version": str(tool_class.version),
        "device": device,
        "reproducible": mode.is_reproducible,
        "seed": mode.seed,
        "seconds": round(time.perf_counter() - started_s, 3),
        "output": list(job.output),
    }
    if options.json:
        put(json.dumps({**done, "error": failure} if failure else done))
    if failure:
        complain(f"{options.tool}: {failure}" + (f" (log: {options.log})" if options.log else ""))
    return EXIT_FAILED if failure else EXIT_DONE


def choose_mode(options: argparse.Namespace) -> Mode:
    """Have this process compute as the options say, else the environment; return how.

    Raises
    ------
    ConfigError
        A seed or a variable is malformed, or it is too late for a reproducible job.
    """
    mode = mode_asked(options)
    os.environ.update(mode.variables())
    # Before the tool, and all that it imports, is loaded.
    library = numerics.prepare() if mode.is_reproducible else ""
    if library:
        raise ConfigError(
            f"a reproducible job needs a process that has not loaded {library} yet: run gpupool as "
            "a command of its own"
        )
    return mode


def attempt(tool_class: type[Tool], job: Job, device: str | None) -> str:
    """Do the job; return the error message, empty if there was none.

    The job's log gets the message or the traceback. Without a log, a traceback
    is shown only where the message alone would not help the user.
    """
    try:
        check_inputs(job)
        run_cold(tool_class, job, device)
    except InputError as error:
        if job.log:
            print(f"error: {error}", file=sys.stderr)
        return str(error)
    except Exception as error:
        file = getattr(error, "filename", None) if isinstance(error, OSError) else None
        if job.log or file is None:
            traceback.print_exc()
        what = type(error).__name__ if file is None else str(file)
        return f"{what}: {getattr(error, 'strerror', None) or error}"
    return ""


@contextlib.contextmanager
def captured(log: str | None) -> Iterator[None]:
    """Redirect standard output and error to a file, also what libraries write below Python.

    Without a file, standard output goes to standard error: what a tool prints
    must not mix with ``--json``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = open_log(log) if log else os.dup(2)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in enumerate(kept, start=1):
            os.dup2(saved, descriptor)
            os.close(saved)
        os.close(target)
