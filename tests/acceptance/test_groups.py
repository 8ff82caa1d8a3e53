"""Groups that are run member by member do what they do as one job of a cluster (S7, K5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.groups.record import EXPECTED, HERE, results
from tests.acceptance.running import Workflow


@pytest.mark.timeout(240)
def test_fifteen_groups_leave_and_see_what_they_do_on_a_cluster(tmp_path: Path) -> None:  # S7 K5
    """The oracle is ``cluster-generic``: ``groups/record.py`` has recorded it."""
    workflow = Workflow(tmp_path, (HERE / "Snakefile").read_text())
    (tmp_path / "textual.py").unlink()
    (tmp_path / "seen").mkdir()
    run = workflow.run("--latency-wait", "2", timeout_s=220, GPUPOOL_SIMULATE="2")
    assert run.code == 0, run.text[-6000:]
    assert results(tmp_path) == json.loads(EXPECTED.read_text())
