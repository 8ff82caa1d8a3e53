"""What processes of a server note of what they have read (G4)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.errors import CodeChanged, FoundHere
from snakemake_executor_gpupool.worker.noted_reads import NotedReads
from snakemake_executor_gpupool.worker.observed import LISTING, Observer


class Reader(Tool):
    """A tool without files of its own."""


class Process:
    """A process that reads, and what is noted beside ``expected``."""

    def __init__(self, directory: Path, *, is_anywhere: bool = False) -> None:
        self.observer = Observer()
        self.reads = NotedReads([str(directory / "s.json")], is_anywhere=is_anywhere)

    def read(self, path: Path | str, kind: str = "file") -> None:
        self.observer.note(kind, path)

    def note(self) -> None:
        self.observer.look_around = lambda: None  # type: ignore[method-assign]
        self.reads.note(self.observer, lambda: Reader({}))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table"
    path.write_text("1")
    return path


def test_a_change_is_seen_by_every_process(tmp_path: Path, table: Path) -> None:
    one, other = Process(tmp_path), Process(tmp_path)
    one.read(table)
    one.note()
    other.note()
    table.write_text("2")
    for process in (one, other, Process(tmp_path)):
        with pytest.raises(CodeChanged, match=f"{table}, which the tool has read"):
            process.note()


def test_a_file_that_changes_while_it_is_in_use_is_never_noted_as_it_is_now(
    tmp_path: Path, table: Path
) -> None:
    process = Process(tmp_path)
    process.read(table)
    table.write_text("2")
    for _ in range(2):
        with pytest.raises(CodeChanged, match="while the tool has read it"):
            process.note()


def test_the_same_content_is_no_change(tmp_path: Path, table: Path) -> None:
    process = Process(tmp_path)
    process.read(table)
    process.note()
    os.link(table, tmp_path / "link")  # as an engine stages files
    process.note()
    new = tmp_path / "new"
    new.write_text("1")
    new.replace(table)
    process.note()


def test_names_in_a_directory_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    process = Process(tmp_path)
    process.read(tmp_path / "d", LISTING)
    process.read(tmp_path / "d" / "later")
    process.note()
    (tmp_path / "d" / "later").write_text("1")
    with pytest.raises(CodeChanged):
        process.note()


def test_what_the_tool_itself_writes_does_not_count(tmp_path: Path, table: Path) -> None:
    process = Process(tmp_path)
    process.read(table)
    process.read(tmp_path, LISTING)
    process.observer.changed.add(str(table))
    table.write_text("2")
    (tmp_path / "more").write_text("")
    process.note()
    process.note()


def test_a_name_without_a_directory_is_for_processes_that_start_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("start", "job"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "start")
    process = Process(tmp_path, is_anywhere=True)
    process.read("option")
    process.note()
    process.reads.require_none_in(str(tmp_path / "job"))
    (tmp_path / "job" / "option").write_text("")
    with pytest.raises(FoundHere, match="option"):
        Process(tmp_path).reads.require_none_in(str(tmp_path / "job"))


def test_a_line_that_a_full_disk_has_cut_off_spoils_no_later_one(
    tmp_path: Path, table: Path
) -> None:
    (tmp_path / "s.reads").write_text(json.dumps(["file", "/x", "1", ""])[:-3])
    process = Process(tmp_path)
    process.read(table)
    process.note()
    table.write_text("2")
    with pytest.raises(CodeChanged):
        process.note()
