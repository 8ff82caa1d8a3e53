"""Modules beside a tool's file (C2)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api import neighbours
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class

TOOL = """
from snakemake_executor_gpupool import Tool
import nearby

class T(Tool):
    version = nearby.VERSION

    def load(self, device):
        from nearby.late import VALUE
        return VALUE
"""


@pytest.fixture(autouse=True)
def no_neighbours_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(neighbours, "_MEANT", {})
    yield
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nearby"]:
        del sys.modules[name]


def write(directory: Path, version: str) -> str:
    (directory / "nearby").mkdir(parents=True, exist_ok=True)
    (directory / "nearby/__init__.py").write_text(f"VERSION = {version!r}\n")
    (directory / "nearby/late.py").write_text(f"VALUE = {version!r}\n")
    for name in ("nearby/__init__.py", "nearby/late.py"):
        os.utime(directory / name, (1_000_000, 1_000_000))
    (directory / "t.py").write_text(TOOL)
    return f"{directory / 't.py'}:T"


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:  # C2
    kind: Any = load_tool_class(write(tmp_path, "1"))
    assert (kind.version, kind({}).load("cpu")) == ("1", "1")
    forget()
    write(tmp_path, "2")
    (tmp_path / "t.py").write_text(f"{TOOL}\n# a new process would load the file anew")
    kind = load_tool_class(f"{tmp_path / 't.py'}:T")
    assert (kind.version, kind({}).load("cpu")) == ("2", "2")
    assert not list(tmp_path.glob("nearby/__pycache__/*"))


def test_two_tools_with_neighbours_of_one_name_are_refused(tmp_path: Path) -> None:  # C2
    first, second = write(tmp_path / "a", "1"), write(tmp_path / "b", "2")
    assert load_tool_class(first).version == "1"
    with pytest.raises(UnknownTool, match=r"imports nearby from .*/b/nearby.*/a/nearby"):
        load_tool_class(second)
    assert load_tool_class(first).version == "1"


def test_two_tools_of_one_directory_share_their_neighbours(tmp_path: Path) -> None:
    spec = write(tmp_path, "1")
    (tmp_path / "u.py").write_text(TOOL)
    assert load_tool_class(spec).version == load_tool_class(f"{tmp_path / 'u.py'}:T").version
