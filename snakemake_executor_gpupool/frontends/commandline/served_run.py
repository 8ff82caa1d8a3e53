"""``gpupool run --server``: the job is handed over to a server, and ends as if done here.

Light: what a cold job needs is not imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError, InputError
from snakemake_executor_gpupool.frontends.commandline.job_words import (
    build_job,
    check_inputs,
    device_option,
    is_mode_asked,
    mode_asked,
    open_log,
)
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_FAILED,
    complain,
    explain,
    put,
)
from snakemake_executor_gpupool.frontends.server.address import OFF, wish_of
from snakemake_executor_gpupool.frontends.server.client import Client


def run_served(options: argparse.Namespace) -> int | None:
    """Have the job of the parsed command line done; None: it is to be done here.

    Raises
    ------
    ConfigError
        The command line's words are wrong, or there is no server and one was to be there.
    """
    wish = wish_of(options.server, os.environ)
    if wish.word == OFF:
        return None
    is_reproducible, seed = _mode(options)
    job = build_job(options)
    device = device_option(options.device or os.environ.get("GPUPOOL_DEVICE"))
    try:
        check_inputs(job)
    except InputError:
        return None  # a cold run says what is wrong, without loading anything
    target = open_log(options.log) if options.log else 2
    started_s = time.perf_counter()
    names = ("tool", "rule", "input", "output", "param", "wildcard", "threads", "log")
    words = {name: getattr(options, name) for name in names}
    files = [*job.input, *job.output, *job.log]
    answer = Client(wish).run({**words, "device": device}, files)
    if answer is None:
        return None
    is_done = answer["type"] == "done"
    answer["shown"].copy_to(target)
    if not is_done:
        _tell(options, answer, target)
    if options.json:
        done: dict[str, Any] = {
            "status": "done" if is_done else "failed",
            "tool": options.tool,
            "version": answer.get("version", ""),
            "device": device,
            "reproducible": is_reproducible,
            "seed": seed,
            "seconds": round(time.perf_counter() - started_s, 3),
            "output": list(job.output),
        }
        put(json.dumps(done if is_done else {**done, "error": answer["message"]}))
    return EXIT_DONE if is_done else int(answer.get("exit_code") or EXIT_FAILED)


def _mode(options: argparse.Namespace) -> tuple[bool, int]:
    """Return how to compute, and have the variables say it: another mode is another server."""
    if not is_mode_asked(options):
        return False, 0
    mode = mode_asked(options)
    is_default = not mode.is_reproducible and not mode.seed
    for name, value in mode.variables().items():
        os.environ.pop(name, None)
        if not is_default:
            os.environ[name] = value
    return mode.is_reproducible, mode.seed


def _tell(options: argparse.Namespace, answer: dict[str, Any], target: int) -> None:
    """Say why a job has failed, on standard error and in its log."""
    message, traceback = str(answer.get("message")), str(answer.get("traceback") or "")
    if answer.get("is_misuse"):
        raise ConfigError(message)
    more = f"{traceback.rstrip()}\n" if traceback else ""
    if options.log:
        with contextlib.suppress(OSError):
            os.write(target, (more or f"error: {message}\n").encode(errors="backslashreplace"))
    elif more:
        explain(more)
    complain(f"{options.tool}: {message}" + (f" (log: {options.log})" if options.log else ""))
