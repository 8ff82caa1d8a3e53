"""``gpupool serve``: start a server here, ask one how it is, or have it end."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.arguments import read_params
from snakemake_executor_gpupool.frontends.commandline.job_words import device_option
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED, complain
from snakemake_executor_gpupool.frontends.server.address import ON, Wish, key_of
from snakemake_executor_gpupool.frontends.server.client import Client
from snakemake_executor_gpupool.frontends.server.own import surroundings

SERVE_DESCRIPTION = """\
Serve jobs of gpupool run from warm workers that outlive any run, until nobody has had a job for
long. One server serves one user's processes on this machine that have the same gpupool, Python
and devices. GPUPOOL_SERVER=auto, or gpupool run --server, starts one by itself.
"""


def add_serve(commands: Any) -> None:
    """Add it to the command line's parser."""
    parser = commands.add_parser(
        "serve",
        help="serve the jobs of other processes from warm workers",
        description=SERVE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--preload",
        metavar="TOOL",
        help="have a tool's model loaded before its first job: by the server that there is, which "
        "is waited for, else by this one",
    )
    pairs: dict[str, Any] = {"nargs": "+", "action": "append", "default": []}
    add("--param", "-p", metavar="K=V", help="with --preload: the tool's params", **pairs)
    add("--device", help="with --preload: cpu, cuda or cuda:0 (default: as the tool prefers)")
    add("--status", action="store_true", help="say how the server is, and end; 1: there is none")
    add("--stop", action="store_true", help="have it end once the jobs in flight have")
    add("--json", action="store_true", help="with --status and --stop: as JSON")
    add(
        "--idle-timeout",
        type=_timeout,
        metavar="S",
        help="seconds without a job after which a model's processes end (default: 30 times what it "
        "takes to load, from 300 to 3600)",
    )
    add(
        "--server-idle-timeout",
        type=_timeout,
        metavar="S",
        help="seconds without a job after which the server ends (default: 1800, and no model is "
        "kept any longer)",
    )
    add("--devices", metavar="DEVICES", help="as --gpupool-devices of the executor")
    add("--offload-strategy", metavar="HOW", help="as --gpupool-offload-strategy")
    add("--allow-multiple-per-device", action="store_true", help="as the executor's option")
    add("--cache", metavar="DIR", help="directory of results kept across runs")
    add("--directory", metavar="DIR", help="the server's own directory (default: one in /tmp)")
    parser.set_defaults(command=serve_command)


def _timeout(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 1e7:
        raise argparse.ArgumentTypeError(f"takes seconds from 0.1 to 1e7, not {text!r}")
    return value


def serve_command(options: argparse.Namespace) -> int:
    """Do what the parsed command line says, and return the exit code.

    Raises
    ------
    ConfigError
        An option is wrong, or there is a server already.
    """
    given = options.directory
    directory = str(Path(given).expanduser().absolute()) if given else ""
    if options.status or options.stop:
        return _ask(options, directory)
    preload = _preload(options)
    if preload:
        client = Client(Wish(ON, directory))
        if client.ask({"type": "status"})["type"] == "status":
            return _have_loaded(client, preload, as_json=options.json)
    from snakemake_executor_gpupool.frontends.server.serving import (
        IDLE,
        ServerOptions,
        serve,
    )
    from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime

    idle_s, server_idle_s = options.idle_timeout, options.server_idle_timeout
    if None not in (idle_s, server_idle_s) and idle_s > server_idle_s:
        raise ConfigError(
            "--server-idle-timeout is less than --idle-timeout: the server would go first"
        )
    pool = {
        "managed_devices": options.devices,
        "offload_strategy": options.offload_strategy,
        "allow_multiple_per_device": options.allow_multiple_per_device or None,
        "cache": options.cache,
    }
    idle = IDLE if idle_s is None else IdleTime(idle_s)
    serve(ServerOptions(directory, idle, server_idle_s, pool, preload))
    return EXIT_DONE


def _preload(options: argparse.Namespace) -> dict[str, Any]:
    """Return the message by which a model is loaded; empty: none is to be.

    Raises
    ------
    ConfigError
        A param or the device is malformed.
    """
    if not options.preload:
        if options.param or options.device:
            raise ConfigError("--param and --device belong to --preload TOOL")
        return {}
    read_params("--param", options.param)
    nothing = {"rule": "", "input": [], "output": [], "wildcard": [], "threads": 1, "log": None}
    words = {"tool": options.preload, "param": options.param}
    words["device"] = device_option(options.device or os.environ.get("GPUPOOL_DEVICE"))
    key = key_of(os.environ)
    return {**nothing, **words, **surroundings(), "type": "preload", "key": key}


def _have_loaded(client: Client, message: dict[str, Any], *, as_json: bool) -> int:
    """Have a model loaded by the server that there is, and wait until it is."""
    started_s = time.perf_counter()
    answer = client.ask(message, patience_s=None)
    seconds = round(time.perf_counter() - started_s, 3)
    is_done, tool = answer["type"] == "done", message["tool"]
    why = str(answer.get("message") or answer.get("why") or answer["type"])
    if as_json:
        done = {"status": "loaded", "tool": tool, "seconds": seconds}
        print(json.dumps(done if is_done else {**done, "status": "failed", "error": why}))
    elif is_done:
        print(f"{tool} is loaded, after {seconds:.1f} s")
    if not is_done:
        complain(f"{tool} cannot be loaded: {why}")
    return EXIT_DONE if is_done else EXIT_FAILED


def _ask(options: argparse.Namespace, directory: str) -> int:
    """Ask the server that there is; 1: there is none."""
    client = Client(Wish(ON, directory))
    answer = client.ask({"type": "stop" if options.stop else "status"})
    answer["directory"] = client.directory
    print(json.dumps(answer) if options.json else _words(answer))
    return EXIT_FAILED if answer["type"] == "none" else EXIT_DONE


def _words(answer: dict[str, Any]) -> str:
    if answer["type"] == "none":
        return f"no server: {answer['why']}"
    if answer["type"] == "stopping":
        jobs = answer["jobs"]
        rest = f" once {jobs} job{'s' * (jobs != 1)} in flight have ended" if jobs else ""
        return f"process {answer['pid']} ends{rest}"
    jobs = answer["jobs"]
    lines = [
        f"gpupool {answer['version']}, process {answer['pid']}, up for {answer['up_s']:g} s, "
        f"without a job for {answer['idle_s']:g} s",
        f"directory: {answer['directory']}",
        f"jobs: {jobs['running']} in flight, {jobs['done']} done, {jobs['failed']} failed; "
        f"{answer['loads']} models loaded",
        f"tools: {', '.join(answer['tools']) or 'none'}",
        *(f"{name}: {', '.join(who) or 'nobody'}" for name, who in answer["devices"].items()),
    ]
    return "\n".join(lines)
