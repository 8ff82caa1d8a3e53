"""What a killed process has left beside outputs is removed, and nothing that is being written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snakemake_executor_gpupool.hosts.staged_leftovers import remove_staged
from snakemake_executor_gpupool.wire import machine, staging_names
from snakemake_executor_gpupool.wire.staging_names import STAGING_PREFIX, maker_of, where_pids_count
from snakemake_executor_gpupool.worker.staging_folders import StagingFolders


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended, and was waited for."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def made_by(where: str, pid: int, parent: Path) -> Path:
    folder = parent / f"{STAGING_PREFIX}{where}-{pid}-abc_1"
    folder.mkdir()
    (folder / "half").write_text("half")
    return folder


def test_a_name_tells_who_made_a_directory(tmp_path: Path) -> None:  # W9
    folder = StagingFolders().take(str(tmp_path))
    assert maker_of(Path(folder).name) == os.getpid()
    for other in (".gpupool-12-abc", ".gpupool-", "out", f".gpupool-{where_pids_count()}-x-abc"):
        assert maker_of(other) is None


def test_only_what_ended_processes_of_this_place_have_left_is_removed(
    tmp_path: Path, ended: int
) -> None:  # S10 W9
    """A node's process on the same file system, or a container's, has a number that is free here.

    Its directory was removed while a job's outputs were written into it.
    """
    here = where_pids_count()
    elsewhere = made_by("0" * 8, ended, tmp_path)
    alive = made_by(here, os.getpid(), tmp_path)
    others = made_by(here, 1, tmp_path)
    left = made_by(here, ended, tmp_path)
    (tmp_path / "out.txt").write_text("whole")
    remove_staged([str(tmp_path / "out.txt"), str(tmp_path / "more.txt"), "/nowhere/out.txt"])
    assert not left.exists()
    for stays in (elsewhere, alive, others):
        assert (stays / "half").read_text() == "half"
    assert (tmp_path / "out.txt").read_text() == "whole"


def test_places_are_told_apart_without_a_boot_id_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W9
    names = set()
    for name in ("one", "two"):
        where_pids_count.cache_clear()
        monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / "nowhere")
        monkeypatch.setattr(staging_names.platform, "node", lambda name=name: name)
        names.add(where_pids_count())
    where_pids_count.cache_clear()
    assert len(names) == 2
