"""A real Slurm of two nodes with two fake GPUs each, on this machine, for the tests in here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def why_not() -> str | None:
    """Say why there can be no Slurm here; None if there can."""
    if os.environ.get("GPUPOOL_TEST_SLURM") != "1":
        return "`make test-slurm` runs the tests on a real Slurm"
    if os.getuid() != 0:
        return "a Slurm of its own needs root"
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return "Slurm is not installed, and there is no apt-get to install it with"
    return None


def three_free_ports() -> int:
    """Return the first of three neighbouring ports that nobody listens on."""
    for port in range(16817, 26817, 7):
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            try:
                for number, probe in enumerate((first, second, third)):
                    probe.bind(("127.0.0.1", port + number))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Slurm, and stop it in the end."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # Munge refuses a socket below a directory that others may write to.
    directory = Path("/run") / f"gpupool-slurm-{os.getpid()}"
    directory.mkdir(mode=0o755)
    started = subprocess.run(
        [HERE / "start", directory, str(three_free_ports())],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if started.returncode != 0:
            pytest.skip(f"Slurm cannot be installed or started here: {started.stderr[-500:]}")
        os.environ["SLURM_CONF"] = str(directory / "slurm.conf")
        yield
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([HERE / "stop", directory], check=False)
        shutil.rmtree(directory, ignore_errors=True)
