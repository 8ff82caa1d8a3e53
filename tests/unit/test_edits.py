"""An edit of a tool's code is noticed by a process that has imported it."""

from __future__ import annotations

import os
from pathlib import Path

from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.worker.edits import LOOK_S, Edits

TOOL = """
from snakemake_executor_gpupool import Tool
class T(Tool):
    def load(self, device): ...
    def read(self, job): return []
    def run(self, items): return items
    def write(self, job, results): ...
"""


def test_an_edit_is_noticed_and_a_touch_is_none(tmp_path: Path) -> None:  # C2
    path = tmp_path / "tool_for_edits.py"
    path.write_text(TOOL)
    edits = Edits(load_tool_class(f"{path}:T"))
    assert edits.remark(0.0) == ""
    os.utime(path, ns=(1, 1))
    assert edits.remark(LOOK_S) == ""
    path.write_text(TOOL + "X = 1\n")
    assert edits.remark(1.5 * LOOK_S) == "", "it looks now and then"
    assert edits.remark(2 * LOOK_S).startswith(f"{path}, of T, has changed")
