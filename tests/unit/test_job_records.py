"""Snakemake's files of jobs are what Snakemake writes, which is the oracle here."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from snakemake.persistence.file import FilePersistence

from snakemake_executor_gpupool.frontends.snakemake.job_records import (
    Records,
    write_new_ones_at_once,
)

VALUES: list[Any] = [
    {"external_jobid": None},
    {"rule": "embed", "starttime": 1732870000.1234567, "input": ["a b", "ü\n"], "n": 10**20},
    {"nan": float("nan"), "nested": {"a": [1, 2.0, True, None], "": "\u2028"}},
    {},
]
LONG = "deep/" + "x" * 1000


def files_of(*, at_once: bool) -> Any:
    """Return what Snakemake keeps its files with; nothing is there yet."""
    persistence: Any = object.__new__(FilePersistence)
    persistence._max_len = None
    if at_once:
        write_new_ones_at_once(persistence)
        assert isinstance(persistence._io_write, Records)
    return persistence


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Return what is in a directory: permissions and contents."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): (stat.S_IMODE(path.stat().st_mode), path.read_text())
        for path in files
    }


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["out/a.txt", LONG])
def test_files_are_snakemakes(tmp_path: Path, value: object, name: str) -> None:
    for place, at_once in (("usual", False), ("here", True)):
        (tmp_path / place).mkdir()
        files = files_of(at_once=at_once)
        files._io_write(str(tmp_path / place), value, name)
        files._io_write(str(tmp_path / place), {"again": 1}, "other")
        files._io_write(str(tmp_path / place), value, "other")
    assert tree(tmp_path / "here") == tree(tmp_path / "usual") != {}
    expected = files_of(at_once=False)._io_read(str(tmp_path / "here"), name)
    assert repr(expected) == repr(value)


def test_a_new_file_in_a_directory_that_is_there_is_written_at_once(tmp_path: Path) -> None:
    files = files_of(at_once=True)
    files._io_write._usual = None
    files._io_write(str(tmp_path), VALUES[1], "a")
    assert files_of(at_once=False)._io_read(str(tmp_path), "a") == VALUES[1]


def test_a_file_that_is_there_keeps_its_further_permissions(tmp_path: Path) -> None:
    files = files_of(at_once=True)
    files._io_write(str(tmp_path), {"a": "long" * 100}, "a")
    path = Path(files._record_path(str(tmp_path), "a"))
    path.chmod(0o604)
    files._io_write(str(tmp_path), {"b": 1}, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664 and path.read_text() == '{"b": 1}'


def test_errors_are_snakemakes(tmp_path: Path) -> None:
    files = files_of(at_once=True)
    with pytest.raises(TypeError, match="not JSON"):
        files._io_write(str(tmp_path), {"a": object()}, "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        files._io_write(str(tmp_path / "file"), {}, "a")


def test_what_writes_in_another_way_is_left_alone() -> None:
    class Other:
        def _record_path(self, subject: str, id: str) -> str:
            return ""

        def _io_write(self, subject: str, value: object) -> None: ...

    other = Other()
    write_new_ones_at_once(other)
    write_new_ones_at_once(object())
    assert not vars(other)
    files = files_of(at_once=True)
    first = files._io_write
    write_new_ones_at_once(files)
    assert files._io_write is first
