"""A real Slurm of two nodes with two fake GPUs each, on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.slurm.network import free_ports, network

HERE = Path(__file__).resolve().parent


class NoSlurm(Exception):
    """There can be no Slurm here; the message says why."""


@contextlib.contextmanager
def running_slurm() -> Iterator[None]:
    """Install Debian's Slurm where it is missing, and have it run meanwhile.

    Raises
    ------
    NoSlurm
        It cannot be.
    """
    if os.getuid() != 0:
        raise NoSlurm("a Slurm of its own needs root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        raise NoSlurm("Slurm is not installed, and there is no apt-get to install it with")
    _call("install")
    # Munge refuses a socket below a directory that others may write to.
    directory = Path("/run") / f"gpupool-slurm-{os.getpid()}"
    directory.mkdir(mode=0o755)
    with network.private():
        try:
            _call("start", str(directory), str(free_ports(3)))
            os.environ["SLURM_CONF"] = str(directory / "slurm.conf")
            yield
        finally:
            os.environ.pop("SLURM_CONF", None)
            subprocess.run([HERE / "stop", directory], check=False)
            shutil.rmtree(directory, ignore_errors=True)


def _call(*command: str) -> None:
    done = subprocess.run(
        [HERE / command[0], *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoSlurm(f"{command[0]} failed: {done.stderr[-500:]}")
