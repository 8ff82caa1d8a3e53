"""What a tool's code holds is found without a question to anybody else's module."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.worker.baseline import own_modules

TOOL = "from snakemake_executor_gpupool import Tool\nimport near\nclass T(Tool): pass\n"


class Odd(types.ModuleType):
    """A module that makes up what it is asked for, as torch's and lazy ones do."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} was asked for")


def test_odd_modules_of_libraries_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "t.py").write_text(TOOL)
    (tmp_path / "near.py").write_text("")
    tool_class = load_tool_class(str(tmp_path / "t.py"))
    nameless, odd = types.ModuleType("nameless"), Odd("odd")
    nameless.__name__ = None  # type: ignore[assignment]
    del odd.__dict__["__name__"]
    for name, module in (("nameless", nameless), ("odd", odd), ("nothing", None)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "near", sys.modules["near"])
    found = {module.__name__ for module in own_modules(tool_class)}
    assert found == {tool_class.__module__, "near"}
