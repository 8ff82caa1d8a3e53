"""Whether what a process has seen before there was a job is still as it was."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from snakemake_executor_gpupool.tool_api import neighbours
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.worker.ahead import SeenAhead
from snakemake_executor_gpupool.worker.imports import has_neighbour
from snakemake_executor_gpupool.worker.looks import _LOOKS
from snakemake_executor_gpupool.worker.observed import Observer


class Named(Tool):
    """Its weights are a directory that a param names."""

    def model_params(self):
        return {"weights": self.params["weights"]}


class Seen:
    """A process that was started ahead, and what it has seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.observer = Observer()
        monkeypatch.setattr(self.observer, "look_around", lambda: None)  # of this process
        self._ahead = SeenAhead(self.observer)
        # Files of a test are older than its process.
        self.began(4e9)

    def began(self, time_s: float) -> None:
        self._ahead._began_s = time_s

    def sees(self, look: Callable[[], object]) -> None:
        with self.observer.watching():
            look()

    @property
    def holds(self) -> bool:
        return self._ahead.holds(Named)

    def holds_for(self, tool: Tool) -> bool:
        return self._ahead.holds_for(tool)

    def loads(self, tool: Tool) -> None:
        self._ahead.loads(tool)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    before = [getattr(os, name) for name in _LOOKS]
    yield Seen(monkeypatch)
    assert [getattr(os, name) for name in _LOOKS] == before


def test_a_file_that_was_written_again_is_noticed(tmp_path: Path, seen: Seen) -> None:
    file = tmp_path / "words.txt"
    file.write_text("old")
    seen.sees(file.read_text)
    assert seen.holds
    file.write_text("other")
    assert not seen.holds


#: Ways to ask whether a file is there, how large it is, or how old, without opening it.
LOOKS: dict[str, Callable[[Path], object]] = {
    "exists": os.path.exists,
    "lexists": os.path.lexists,
    "isfile": os.path.isfile,
    "isdir": os.path.isdir,
    "realpath": os.path.realpath,
    "access": lambda path: os.access(path, os.R_OK),
    "pathlib": Path.exists,
    "is_file": Path.is_file,
    "resolve": Path.resolve,
    "which": lambda path: shutil.which(str(path)),
    "relative": lambda path: os.path.exists(os.path.relpath(path)),  # noqa: PTH110
    "bytes": lambda path: os.path.exists(os.fsencode(path)),  # noqa: PTH110
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_so_is_one_that_was_looked_for_without_opening_it(
    tmp_path: Path, seen: Seen, look: Callable[[Path], object], make: Callable[[Path], None]
) -> None:
    """As a tool does that takes other weights if there are some."""
    file = tmp_path / "optional"
    seen.sees(lambda: look(file))
    assert seen.holds
    make(file)
    assert not seen.holds


def test_and_one_that_is_newer_or_larger_now(tmp_path: Path, seen: Seen) -> None:
    file = tmp_path / "words.txt"
    file.write_text("old")
    seen.sees(lambda: os.path.getsize(file))  # noqa: PTH202
    assert seen.holds
    file.write_text("other")
    assert not seen.holds


def test_a_link_that_leads_elsewhere_is_noticed(tmp_path: Path, seen: Seen) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "current"
    link.symlink_to("one")
    seen.sees(lambda: Path(os.path.realpath(link)).read_text())
    assert seen.holds
    link.unlink()
    link.symlink_to("two")
    assert not seen.holds


def test_what_was_made_in_a_directory_that_was_only_looked_for_is_none_of_its_concern(
    tmp_path: Path, seen: Seen
) -> None:
    seen.sees(tmp_path.is_dir)
    (tmp_path / "output.txt").touch()
    assert seen.holds


def test_what_was_listed_counts_with_its_content(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "words.txt").write_text("old")

    def newest() -> None:
        with os.scandir(tmp_path) as entries:
            max(entries, key=lambda entry: entry.stat().st_mtime)

    seen.sees(newest)
    assert seen.holds
    seen.began(0.0)
    assert not seen.holds, "which of its files is the newest may be another one"


def test_what_python_has_listed_to_import_from_may_get_outputs(tmp_path: Path, seen: Seen) -> None:
    """A tool's directory is mostly the one that a workflow writes to."""
    seen.sees(lambda: list(importlib.metadata.distributions(path=[str(tmp_path)])))
    (tmp_path / "output.txt").touch()
    assert seen.holds


def test_what_gpupool_itself_lists_is_nothing_that_the_tool_has_read(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each job it looks for neighbours of a tool's file, and files that params name."""
    monkeypatch.setattr(neighbours, "directories", lambda: [str(tmp_path)])
    seen.sees(lambda: has_neighbour({"torch"}))
    (tmp_path / "output.txt").touch()
    assert seen.holds


def test_files_of_its_own_may_change(tmp_path: Path, seen: Seen) -> None:
    def cache() -> None:
        directory = tmp_path / "cache"
        directory.mkdir(exist_ok=True)
        if not (directory / "index").exists():
            (directory / "index").write_text("1")

    seen.sees(cache)
    (tmp_path / "cache" / "index").write_text("2")
    assert seen.holds


def test_what_was_written_since_the_process_began_does_not_hold(tmp_path: Path, seen: Seen) -> None:
    """It may have been read half."""
    file = tmp_path / "words.txt"
    file.write_text("old")
    seen.sees(file.read_text)
    seen.began(file.stat().st_ctime - 1.0)
    assert not seen.holds


def connect() -> None:
    with socket.socket() as channel:
        channel.connect_ex(("127.0.0.1", 1))


UNSEEN: dict[str, Callable[[Path], object]] = {
    "program": lambda path: subprocess.run(["cat", "/dev/null"], check=True),
    "shell": lambda path: os.system("true"),
    "database": lambda path: sqlite3.connect(path / "table.db").close(),
    "network": lambda path: connect(),
}


@pytest.mark.parametrize("do", UNSEEN.values(), ids=UNSEEN)
def test_what_nobody_can_see_never_holds(
    tmp_path: Path, seen: Seen, do: Callable[[Path], object]
) -> None:
    assert seen.holds
    seen.sees(lambda: do(tmp_path))
    assert not seen.holds


def test_programs_that_say_what_machine_this_is_do_no_harm(seen: Seen) -> None:
    seen.sees(lambda: subprocess.run(["uname"], check=True, capture_output=True))
    assert seen.holds


def test_a_module_that_can_be_imported_now_is_noticed(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a tool that takes another way if there is none."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    new: set[str] = set()
    monkeypatch.setattr(SeenAhead, "_is_new", lambda self, path: Path(path).name in new)
    (tmp_path / "package").mkdir()
    for name in ("output.txt", "module.py", "package/__init__.py", "package/data"):
        (tmp_path / name).touch()
    for name in ("output.txt", "data", "module.py", "package", "__init__.py"):
        new.clear()
        new.add(name)
        assert seen.holds is (name in ("output.txt", "data")), name
    package = ModuleType("package")
    package.__path__ = [str(tmp_path / "package")]
    monkeypatch.setitem(sys.modules, "package", package)
    new.clear()
    new.add("package")
    assert seen.holds, "Python keeps there what it has compiled"


def test_each_file_of_a_model_counts(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    tool = Named({"weights": str(tmp_path)})
    seen.loads(tool)
    assert seen.holds_for(tool)
    (tmp_path / "weights.bin").write_bytes(b"2")
    assert not seen.holds_for(tool)


def test_weights_that_were_not_there_count_too(tmp_path: Path, seen: Seen) -> None:
    tool = Named({"weights": str(tmp_path / "trained.bin")})
    seen.loads(tool)
    (tmp_path / "trained.bin").write_bytes(b"1")
    assert not seen.holds_for(tool)


def test_code_that_was_edited_is_noticed(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snakemake_executor_gpupool.worker.code_digest import code_of

    module = tmp_path / "edited_tool.py"
    code = "from snakemake_executor_gpupool import Tool\nclass Edited(Tool):\n    pass\n"
    module.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("edited_tool").Edited
    code_of(kind)
    assert seen._ahead.holds(kind)
    module.write_text(f"{code}    version = 2\n")
    assert not seen._ahead.holds(kind)
