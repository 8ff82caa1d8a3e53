"""What becomes of plain jobs on nodes whose Dask task ends in an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

distributed = pytest.importorskip("distributed")

from snakemake_executor_gpupool.hosts.cluster.commands import (  # noqa: E402
    CORES,
    FAILED_CODE,
    NodeCommands,
)

PLUGIN = "gpupool-test"


class Processes:
    """Those of a node whose disk is full."""

    def run(self, *arguments: Any) -> int:
        raise OSError(28, "No space left on device")


class Agent(distributed.WorkerPlugin):  # type: ignore[misc]
    name = PLUGIN
    processes = Processes()


@pytest.fixture
def client() -> Iterator[Any]:
    with distributed.Client(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        resources={CORES: 1},
    ) as client:
        client.register_plugin(Agent(), name=PLUGIN)
        yield client


def test_a_job_that_its_node_cannot_start_fails_and_is_not_tried_for_ever(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine: Any = SimpleNamespace(client=client, plugin_name=PLUGIN)
    commands = NodeCommands(engine, lambda node: None, lambda address: True, tmp_path / "logs")
    assert commands.run("true", {}, threads=1) == FAILED_CODE
    assert "No space left on device" in capsys.readouterr().err
    assert commands.pending == 0


def test_a_job_of_a_node_that_is_lost_is_reported_as_lost(client: Any, tmp_path: Path) -> None:
    engine: Any = SimpleNamespace(client=client, plugin_name=PLUGIN)
    commands = NodeCommands(engine, lambda node: None, lambda address: False, tmp_path / "logs")
    commands.cancel()  # as far as the job can tell, its node is gone
    assert commands.run("true", {}, threads=1) is None
