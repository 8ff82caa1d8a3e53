"""Whether a tool's code has been edited since this process has imported it.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import time

from snakemake_executor_gpupool.worker.code_digest import changed_file

#: How often its files are looked at, at most, in seconds.
LOOK_S = 0.05


class Edits:
    """Looks at a tool's files now and then; the first look says what they were.

    Parameters
    ----------
    tool_class
        Imported just now.
    """

    def __init__(self, tool_class: type) -> None:
        self._tool_class, self._look_s = tool_class, 0.0

    def remark(self, now_s: float | None = None) -> str:
        """Return what to say of an edit; empty: there was none, or nobody has looked."""
        now_s = time.monotonic() if now_s is None else now_s
        if now_s < self._look_s:
            return ""
        self._look_s = now_s + LOOK_S
        path = changed_file(self._tool_class)
        if not path:
            return ""
        return (
            f"{path}, of {self._tool_class.__name__}, has changed since this run has imported it: "
            "jobs go on with what was imported, or with the new one where a process starts anew. "
            "To have all outputs made by the new one, run their rules again: --forcerun RULE"
        )
