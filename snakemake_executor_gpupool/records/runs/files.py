"""Where runs are, and whether one still goes on."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.records.owned import Holder, holder_of
from snakemake_executor_gpupool.records.runs.fields import number

#: Where runs of Snakemake leave their files, from a workflow's directory.
ROOT = Path(".snakemake", "gpupool")
EVENTS = "events.jsonl"


class NoRun(GpupoolError):
    """There is no such run; the message says where it was looked for, and what to do."""


def find_run(name: str | Path | None = None, root: Path = ROOT) -> Path:
    """Return the directory of a run.

    Parameters
    ----------
    name
        A run's name (``20260105-101500-4711``), or the path of its directory or of its
        ``events.jsonl``; None: the newest run.
    root
        Where runs are.

    Raises
    ------
    NoRun
        There is none.
    """
    if name is None:
        runs = list_runs(root)
        if not runs:
            raise NoRun(
                f"there is no run of gpupool in {root}: start one with snakemake --executor "
                "gpupool, or name the directory of one"
            )
        return runs[-1]
    given = Path(name)
    for directory in (root / given, given, given.parent if given.name == EVENTS else given):
        if is_run(directory):
            return directory.resolve()
    known = ", ".join(run.name for run in list_runs(root)[-3:]) or "none"
    raise NoRun(
        f"{name} is no run of gpupool: neither a name in {root} (the last: {known}) nor "
        f"a directory with {EVENTS}"
    )


def list_runs(root: Path = ROOT) -> list[Path]:
    """Return the directories of all runs, the oldest first; links are left out."""
    try:
        runs = [path for path in root.iterdir() if not path.is_symlink() and is_run(path)]
    except OSError:
        return []
    return sorted(runs, key=lambda path: (_started_s(path), path.name))


def is_run(directory: Path) -> bool:
    """Tell whether a directory holds what a run leaves."""
    try:
        return stat.S_ISREG((directory / EVENTS).lstat().st_mode)
    except OSError:
        return False


def _started_s(directory: Path) -> float:
    """When a run was started, by the first line of its events; else by its directory."""
    try:
        with (directory / EVENTS).open("rb") as file:
            return number(json.loads(file.readline(1 << 20))["time_s"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        try:
            return directory.stat().st_mtime
        except OSError:
            return 0.0


def is_live(directory: Path) -> bool:
    """Tell whether a run goes on, as far as can be told from here.

    A run's process locks its directory. Of another machine's run it is known only that it has not
    said that it ended: it counts as going on.
    """
    # A pool in Python locks the temporary directory that its run is in.
    holders = {holder_of(directory), holder_of(directory.parent)}
    return bool(holders & {Holder.ALIVE, Holder.ELSEWHERE})
