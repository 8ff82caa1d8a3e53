"""Removes the directories of old runs, up to a bound.

Removed is only what is certainly an ended run of this user: a plain directory (no link) directly
below the root, named as runs are, with a file of events, that no process holds. What a run of
another machine has locked stays. So do the run at hand and the newest one that failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_gpupool.records.events import read_summary
from snakemake_executor_gpupool.records.owned import Holder, holder_of
from snakemake_executor_gpupool.records.runs.files import EVENTS, list_runs

#: What runs are called: when they started, and by which process.
_RUN_NAME = re.compile(r"\d{8}-\d{6}-\d+")
_MIB = 2**20
#: After how long a directory in which nothing has happened is not one that is being made.
_UNUSED_S = 3600.0


@dataclass(frozen=True)
class Bounds:
    """How many runs are kept, the latest one among them, and how much they may take together.

    Attributes
    ----------
    runs, mib
        0: any number, any size.
    """

    runs: int = 20
    mib: int = 2048


def remove_old_runs(root: Path, current: Path, bounds: Bounds) -> list[Path]:
    """Remove the oldest runs beyond the bounds; return those that are gone. Never raises.

    Parameters
    ----------
    root
        Where runs are.
    current
        The run that has just ended; it counts, and stays.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        runs = [run for run in list_runs(root) if _RUN_NAME.fullmatch(run.name) and _is_ours(run)]
        # One that goes on has not failed yet: it stays, and must not take the other's place.
        over = [run for run in runs if run.name == current.name or _is_over(run)]
        excess = _excess(runs, [run for run in over if run.name != current.name], bounds)
        kept_failure = _newest_failed(over) if excess else None
        _remove_unused(root, current)
        for run in excess:
            if run != kept_failure and _is_over(run) and _remove(run):
                removed.append(run)
    return removed


def _remove_unused(root: Path, current: Path) -> None:
    """Remove what was made for runs in which nothing was to be done: directories without a file."""
    for run in root.iterdir():
        if not _RUN_NAME.fullmatch(run.name) or run.name == current.name or not _is_ours(run):
            continue
        with contextlib.suppress(OSError):
            children = list(run.iterdir())
            is_bare = all(child.name in ("workers", "spool") for child in children)
            # Not one that is being made.
            is_old = run.stat().st_mtime < time.time() - _UNUSED_S
            if is_bare and is_old and _is_over(run):
                for directory in (*children, run):
                    directory.rmdir()  # which refuses to if there is something in it


def _excess(runs: list[Path], removable: list[Path], bounds: Bounds) -> list[Path]:
    """Return which runs are too many, the oldest first."""
    count = len(runs)
    sizes = {run: _size_bytes(run) for run in runs} if bounds.mib else {}
    total_bytes = sum(sizes.values())
    excess = []
    for run in removable:
        is_too_many = bool(bounds.runs) and count > bounds.runs
        if not is_too_many and not (bounds.mib and total_bytes > bounds.mib * _MIB):
            break
        excess.append(run)
        count -= 1
        total_bytes -= sizes.get(run, 0)
    return excess


def _is_ours(run: Path) -> bool:
    try:
        status = run.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _is_over(run: Path) -> bool:
    return holder_of(run) is Holder.NOBODY


def _size_bytes(directory: Path) -> int:
    """Return what the files of a directory take; links count by themselves."""
    total = 0
    for base, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(base) / name).lstat().st_size
    return total


def _newest_failed(runs: Iterable[Path]) -> Path | None:
    return next((run for run in reversed(list(runs)) if has_failed(run)), None)


def has_failed(run: Path) -> bool:
    """Tell whether something has failed in a run that is over: a job, the pool, or all of it."""
    summary = read_summary(run / "summary.json")
    if summary is None or summary.get("jobs_failed"):
        return True
    try:
        with (run / EVENTS).open("rb") as lines:
            return any(_tells_failure(line) for line in lines)
    except OSError:
        return True


def _tells_failure(line: bytes) -> bool:
    """Whether an event is of a plain job that failed, or of the pool; served ones are counted."""
    return (b'"lease_' in line and b'"error"' in line) or b'"event": "pool_failed"' in line


def _remove(run: Path) -> bool:
    """Remove a run; its events last, so that one that is cut short is still known as a run."""
    try:
        children = list(run.iterdir())
    except OSError:
        return False
    for child in children:
        if child.name == EVENTS:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                child.unlink()
    shutil.rmtree(run, ignore_errors=True)
    return not run.exists()
