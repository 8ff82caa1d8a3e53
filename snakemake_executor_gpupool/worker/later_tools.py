"""The tools of jobs that follow, in a process that reads for the job before them.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from snakemake_executor_gpupool.errors import CodeChanged
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.worker.unchanged import Unchanged


class LaterTools:
    """Imports each of them once.

    Parameters
    ----------
    unchanged
        What is expected of this process.
    base_dir
        Where relative paths of tools start.
    """

    def __init__(self, unchanged: Unchanged, base_dir: str) -> None:
        self._unchanged = unchanged
        self._base_dir = base_dir
        #: By spec and stamp; None: they cannot be had in this process.
        self._known: dict[tuple[str, str], type[Tool] | None] = {}

    def of(self, spec: str, stamp: str) -> type[Tool]:
        """Return the class of a tool.

        Raises
        ------
        CodeChanged
            This process cannot import it as the stamp has it: it knows earlier code of it.
        """
        if (spec, stamp) not in self._known:
            is_new = all(spec != known for known, _ in self._known)
            self._known[spec, stamp] = None
            if is_new:
                self._known[spec, stamp] = self._unchanged.admit(
                    stamp, lambda: load_tool_class(spec, self._base_dir)
                )
        tool_class = self._known[spec, stamp]
        if tool_class is None:
            raise CodeChanged(f"{spec} has changed since this process imported it")
        return tool_class
