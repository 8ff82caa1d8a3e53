"""``gpupool serve``: start a server here, ask one how it is, or have it end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED
from snakemake_executor_gpupool.frontends.server.address import ON, Wish
from snakemake_executor_gpupool.frontends.server.client import Client

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
    value = float(text)
    if not 0.1 <= value <= 1e7:
        raise argparse.ArgumentTypeError("takes seconds from 0.1 to 1e7")
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
    serve(ServerOptions(directory, idle, server_idle_s, pool))
    return EXIT_DONE


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
