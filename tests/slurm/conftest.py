"""Fixtures of the tests on a real Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.machine import NoSlurm, running_slurm
from tests.slurm.running import OnSlurm, Run


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """Start Slurm, and stop it in the end."""
    if os.environ.get("GPUPOOL_TEST_SLURM") != "1":
        pytest.skip("`make test-slurm` runs the tests on a real Slurm")
    running = running_slurm()
    try:
        running.__enter__()
    except NoSlurm as why:
        pytest.skip(f"no Slurm here: {why}")
    yield
    running.__exit__(None, None, None)


@pytest.fixture(scope="session")
def on_short_pilots(
    slurm: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OnSlurm, Run]]:
    """A run on pilots that live for a minute, the least that Slurm knows.

    It goes on beside the tests that leave it a card of the second node.
    """
    workflow = OnSlurm(tmp_path_factory.mktemp("short"), jobs=2, sleep_s=8.0)
    pilots = ("--gpupool-cluster", "slurm", "--gpupool-nodes", "0:1", "--gpupool-walltime", "0:01")
    size = ("--gpupool-cores-per-node", "1", "--gpupool-memory-per-node", "1GiB")
    where = "--gpupool-pilot-options=--nodelist=n2"
    with workflow.running(*pilots, *size, where) as run:
        yield workflow, run
