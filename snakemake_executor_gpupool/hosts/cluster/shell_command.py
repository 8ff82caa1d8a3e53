"""A job's shell command on its way to a node."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from snakemake_executor_gpupool.hosts.time_limit import LEFT_CODE
from snakemake_executor_gpupool.wire.late import wait_until

#: Stands for the exit code of a command that the node cannot run as it is.
OTHER_PLACE_CODE = -1_002
#: Of a command that no node can start.
FAILED_CODE = 1
#: What Snakemake calls the place for temporary files.
TMPDIRS = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")


@dataclasses.dataclass(frozen=True)
class ShellCommand:
    """A command, and what must be right on the node before it is run.

    Attributes
    ----------
    executable
        The shell.
    environment
        Variables beyond the node's own.
    unset
        Names of the node's own variables that it must not see.
    files
        Files and directories that must be visible, within ``wait_s`` seconds.
    tmpdir
        The coordinator's place for temporary files; the node's own takes its place. Empty: none.
    names_tmpdir
        The text may have that place in it: the node's must then be the same.
    """

    text: str = ""
    executable: str = "/bin/bash"
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    unset: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    wait_s: float = 0.0
    tmpdir: str = ""
    names_tmpdir: bool = False

    #: What an agent answers instead of an exit code.
    NO_EXIT_CODES: ClassVar[tuple[int, ...]] = (LEFT_CODE, OTHER_PLACE_CODE)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ShellCommand:
        """Return the command of which these are the fields, as JSON holds them."""
        lists = {name: tuple(values[name]) for name in ("unset", "files")}
        return cls(**{**values, **lists})

    def why_not(self, cwd: str) -> tuple[int, str] | None:
        """Return why it cannot be run on this node, as an exit code and in words; None: it can.

        Waits for its files.
        """
        if self.names_tmpdir and self.tmpdir != tempfile.gettempdir():
            return OTHER_PLACE_CODE, ""
        missing = wait_until(
            [str(Path(cwd, path)) for path in self.files], os.path.exists, self.wait_s
        )
        if not missing:
            return None
        shown = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        why = f"not visible on this node within {self.wait_s:g} s (--latency-wait)"
        return FAILED_CODE, f"gpupool: {why}: {shown}\n"

    def variables(self, own: dict[str, str]) -> dict[str, str]:
        """Return its environment on this node, which has ``own``."""
        kept = {name: value for name, value in own.items() if name not in self.unset}
        place = dict.fromkeys(TMPDIRS, tempfile.gettempdir()) if self.tmpdir else {}
        return {**kept, **place, **self.environment}
