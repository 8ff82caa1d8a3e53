"""Outputs that a job updates, as they were before a child of ours was at them.

Snakemake takes a copy of an ``update()`` output before its job runs, and puts it back if the job
fails. In a child, that copy is the child's: it is gone by the time the main process hears of the
failure, which then takes the restored file for the rest of a failed job, and removes it. So the
main process gets a copy that it knows of.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.wire.requests import JobReport


class UpdatedOutputs:
    """Copies of the outputs that some jobs are about to update.

    Parameters
    ----------
    persistence
        Snakemake's, which has its own copies.
    """

    def __init__(self, persistence: Any, jobs: Iterable[Any]) -> None:
        from snakemake.io import is_flagged

        self._persistence = persistence
        self._copies: dict[Path, Path] = {}
        paths = [Path(path) for job in jobs for path in job.output if is_flagged(path, "update")]
        there = [path for path in paths if path.exists()]
        if there:
            self._folder = tempfile.mkdtemp(prefix="gpupool-update-", dir=persistence.path)
        for number, path in enumerate(there):
            self._copies[path] = Path(self._folder, str(number))
            copy(path, self._copies[path])

    def put_back(self) -> None:
        """Make the outputs what they were: the job is to run again."""
        for path, kept in self._copies.items():
            # What a child left that was killed: the next one would stumble over it.
            self._persistence.cleanup_backup(path)
            remove(path)
            copy(kept, path)

    def hand_over(self) -> None:
        """Make the outputs what they were, and have Snakemake know: the job has failed."""
        self.put_back()
        for path in self._copies:
            self._persistence.backup_output(path)

    def kept_for(self, done: Callable[[JobReport], None]) -> Callable[[JobReport], None]:
        """Return who is to be told of the end, after what it means for the outputs is done."""

        def over(report: JobReport) -> None:
            if report.error is not None:
                self.hand_over()
            self.forget()
            done(report)

        return over

    def forget(self) -> None:
        """Remove the copies."""
        if self._copies:
            shutil.rmtree(self._folder, ignore_errors=True)


def keep_untouched(persistence: Any, job: Any) -> None:
    """Keep what a failed job was to update, and never got at, from being removed with the rest.

    Snakemake puts its copy back, and removes the outputs of which it has none.
    """
    from snakemake.io import is_flagged

    for member in job.jobs if job.is_group() else (job,):
        for path in (Path(path) for path in member.output if is_flagged(path, "update")):
            if path.exists() and not persistence._get_backup_path(path).exists():
                persistence.backup_output(path)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a directory."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def remove(path: Path) -> None:
    """Remove a file or a directory that may be there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
