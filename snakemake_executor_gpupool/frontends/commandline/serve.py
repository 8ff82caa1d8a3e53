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
    from snakemake_executor_gpupool.frontends.server.serving import ServerOptions, serve

    if options.idle_timeout > options.server_idle_timeout:
        raise ConfigError(
            "--server-idle-timeout is less than --idle-timeout: the server would go first"
        )
    pool = {
        "managed_devices": options.devices,
        "offload_strategy": options.offload_strategy,
        "allow_multiple_per_device": options.allow_multiple_per_device or None,
        "cache": options.cache,
    }
    serve(ServerOptions(directory, options.idle_timeout, options.server_idle_timeout, pool))
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
