"""Which variables of a client tell workers apart, and are shown to them."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from collections.abc import Mapping

from snakemake_executor_gpupool.frontends.server.address import IGNORED_VARIABLE

#: What differs from task to task of an engine, or from one terminal to the next, whatever is
#: computed. Workers serve many tasks, so they are not shown them.
OF_A_TASK = (
    *("PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "COLUMNS", "LINES", "WINDOWID"),
    *("TERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "COLORTERM", "LS_COLORS", "PS1"),
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE_TERMOUT", "MAKE_TERMERR", "MAKEOVERRIDES"),
    *("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "GPG_TTY", "DISPLAY", "XAUTHORITY"),
    *("PARALLEL_*", "SGE_TASK_*", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"),
    *("SSH_AUTH_SOCK", "WINDOWPATH", "VTE_VERSION", "KITTY_*", "ITERM_*", "TERM_SESSION_ID"),
    *("XDG_SESSION_ID", "TMUX", "TMUX_PANE", "STY", "NXF_*", "nxf_*", "SLURM_STEP*"),
    *("SLURM_TASK_PID", "SLURM_PROCID", "SLURM_LOCALID", "GPUPOOL_SERVER*", "GPUPOOL_DEVICE"),
    *("GPUPOOL_TOOL_FILES", "GPUPOOL_EXPECTED", "GPUPOOL_REPRODUCIBLE", "GPUPOOL_SEED"),
    "GPUPOOL_DEVICE_KIND",
)
#: Lists of directories: an entry that is not absolute depends on where a process starts.
SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def shown(variables: Mapping[str, str], cwd: str) -> dict[str, str]:
    """Return what workers are shown of a client's environment.

    A home directory that is the task's own working directory, as the Common Workflow Language
    has it, is replaced by the user's.
    """
    ignored = [*OF_A_TASK, *_words(variables.get(IGNORED_VARIABLE, ""))]
    exact = {name for name in ignored if not name.endswith("*")}
    starts = tuple(name[:-1] for name in ignored if name.endswith("*"))
    kept = {
        name: value
        for name, value in variables.items()
        if name not in exact and not (starts and name.startswith(starts))
    }
    if "HOME" in kept and os.path.realpath(kept["HOME"]) == os.path.realpath(cwd):
        kept["HOME"] = home()
    return kept


def digest_of(variables: Mapping[str, str]) -> str:
    """Return what identifies an environment."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()


def home() -> str:
    """Return this user's home directory, as the system knows it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")


def depends_on_place(variables: Mapping[str, str]) -> bool:
    """Return whether where a process starts decides on what it finds."""
    lists = [variables[name] for name in SEARCHED if variables.get(name)]
    return any(not os.path.isabs(entry) for each in lists for entry in each.split(os.pathsep))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip(" *")]
