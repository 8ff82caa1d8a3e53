"""One job, as the command line describes it; light, since clients of a server need it."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.errors import ConfigError, InputError
from snakemake_executor_gpupool.frontends.commandline.arguments import named, pairs, read_params
from snakemake_executor_gpupool.tool_api.values import Job, Named

if TYPE_CHECKING:
    from snakemake_executor_gpupool.tool_api.mode import Mode

#: Variables that say how to compute; :mod:`tool_api.mode` reads them.
OF_MODE = "GPUPOOL_REPRODUCIBLE", "GPUPOOL_SEED", "GPUPOOL_DEVICE_KIND"
DEVICES = r"cpu|cuda|cuda:\d+(,cuda:\d+)*"


def build_job(options: argparse.Namespace) -> Job:
    """Build the job that the options describe."""
    log = getattr(options, "log", None)
    return Job(
        rule=getattr(options, "rule", ""),
        wildcards=dict(named("--wildcard", options.wildcard)),
        input=Named.from_pairs(pairs(options.input)),
        output=Named.from_pairs(pairs(options.output)),
        params=read_params("--param", options.param),
        log=[log] if log else [],
        threads=getattr(options, "threads", 1),
    )


def mode_asked(options: argparse.Namespace) -> Mode:
    """Return how the options say, else the environment, that this process shall compute.

    Raises
    ------
    ConfigError
        A seed or a variable is malformed.
    """
    from snakemake_executor_gpupool.tool_api.mode import Mode, parse_seed

    asked = Mode.of(os.environ)
    seed = asked.seed if options.seed is None else parse_seed(options.seed, "--seed")
    return Mode(asked.is_reproducible or options.reproducible, seed, asked.kind)


def is_mode_asked(options: argparse.Namespace) -> bool:
    """Return whether anything says how to compute; if not, nothing has to be imported for it."""
    is_asked = options.reproducible or options.seed is not None
    return is_asked or any(name in os.environ for name in OF_MODE)


def device_option(device: str | None) -> str | None:
    """Check a device for a single process: it is what the tool's ``load`` gets."""
    if device is None:
        return None
    device = device.replace(" ", "")
    if not re.fullmatch(DEVICES, device):
        raise ConfigError(
            f"--device {device!r} is not a device of one process: cpu, cuda, cuda:0 or "
            "cuda:0,cuda:1"
        )
    return "cuda:0" if device == "cuda" else device


def check_inputs(job: Job) -> None:
    """Refuse missing inputs, as Snakemake does before it starts a job."""
    missing = [path for path in job.input if not os.path.lexists(path)]
    if missing:
        raise InputError(f"missing input: {', '.join(missing)}")


def open_log(path: str) -> int:
    """Create a log file, and its directory; return its descriptor."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    except OSError as error:
        raise ConfigError(f"--log {path}: {error.strerror}") from error
