"""What a run that was killed has left is found by Snakemake's markers of it (W9)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from snakemake.persistence.file import FilePersistence

from snakemake_executor_gpupool.frontends.snakemake.interrupted import Interrupted
from snakemake_executor_gpupool.wire.staging_names import where_pids_count
from tests.unit.test_staged_leftovers import made_by


@pytest.fixture
def persistence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return FilePersistence(path=tmp_path / ".snakemake")


def test_beside_unfinished_outputs_alone_it_is_looked_for(tmp_path: Path, persistence: Any) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    names = ("begun", "finished", "l" * 200, "alive")
    for name in names:
        (tmp_path / name).mkdir()
        maker = os.getpid() if name == "alive" else child.pid
        made_by(where_pids_count(), maker, tmp_path / name)
    # A long name of a marker is divided.
    outputs = {"begun/x.txt", f"{'l' * 200}/{'y' * 200}.txt", str(tmp_path / "alive/z")}
    for output in (*outputs, "finished/x.txt"):
        persistence._mark_incomplete(output, None)
    persistence._unmark_incomplete("finished/x.txt")
    for odd in ("migration_underway", "AAAA", "not base 64"):
        (tmp_path / ".snakemake/incomplete" / odd).touch()
    interrupted = Interrupted(persistence)
    persistence._mark_incomplete("finished/x.txt", None)  # by this run
    interrupted.remove_leftovers()
    left = {name for name in names if list((tmp_path / name).glob(".gpupool-*"))}
    assert left == {"finished", "alive"}


def test_of_another_kind_of_persistence_nothing_is_known() -> None:
    Interrupted(object()).remove_leftovers()
