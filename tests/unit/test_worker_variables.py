"""What a worker is told by variables: how its threads wait for each other."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.hosts.worker_variables import worker_variables
from snakemake_executor_gpupool.testing.world_options import gpu
from snakemake_executor_gpupool.wire.requests import ToolRef

TOOL = ToolRef("tool", "", "python")


def test_threads_on_a_cpu_leave_it_to_others_when_they_wait() -> None:
    for devices in ([cpu_slot(0)], []):
        assert worker_variables("w", TOOL, devices, 2, {})["GOMP_SPINCOUNT"] == "1000"
    assert "GOMP_SPINCOUNT" not in worker_variables("w", TOOL, [gpu(0)], 2, {})


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_who_has_said_how_they_wait_is_heeded(name: str) -> None:
    assert "GOMP_SPINCOUNT" not in worker_variables("w", TOOL, [cpu_slot(0)], 2, {name: "ACTIVE"})
