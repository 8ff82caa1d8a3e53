"""The run's own directory: made whole, or refused with a sentence (W9)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.records import paths as paths_module
from snakemake_executor_gpupool.records.paths import RunPaths


def fill(directory: Path) -> None:
    """Use up the inodes of a small file system."""
    number = 0
    while True:
        try:
            (directory / f"filler{number}").touch()
        except OSError:
            return
        number += 1


def test_a_full_disk_is_said(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(
        ConfigError, match=r"cannot be created in .*gpupool: No space left on device"
    ):
        RunPaths(small_disk / "gpupool").create()


def test_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "gpupool").touch()
    with pytest.raises(ConfigError, match="cannot be created in"):
        RunPaths(tmp_path / "gpupool").create()


def test_what_is_called_latest_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "latest/mine").mkdir(parents=True)
    paths = RunPaths(tmp_path)
    paths.create()
    paths.point_latest()
    assert paths.workers.is_dir() and (tmp_path / "latest/mine").is_dir()
    assert not list(tmp_path.glob(".latest*"))
    paths.remove_spools()
    paths.remove_staged()


@pytest.mark.parametrize("what", ["without inodes", "not there"])
def test_without_room_in_memory_the_disk_serves(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fill(small_disk)
    place = small_disk if what == "without inodes" else tmp_path / "absent"
    monkeypatch.setattr(paths_module, "MEMORY_FILE_SYSTEM", place)
    paths = RunPaths(tmp_path / "root")
    paths.create()
    assert paths.spools == [str(paths.directory.absolute() / "spool")]
    assert os.access(paths.spools[0], os.W_OK)
    paths.remove_spools()
    paths.remove_staged()
