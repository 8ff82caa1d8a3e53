"""Copies of outputs that a job updates, kept by the main process while a child runs the job.

Snakemake copies an ``update()`` output before its job runs, and restores it if the job fails.
A child keeps that copy itself: it is gone by the time the failure is reported to the main process,
which then takes the restored file for the output of a failed job, and removes it. So the main
process keeps a copy of its own.
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
        Snakemake's persistence, which has its own copies.
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
        """Restore the outputs before the job runs again."""
        for path, kept in self._copies.items():
            # A killed child may have left a copy, which would make the next one fail.
            self._persistence.cleanup_backup(path)
            remove(path)
            copy(kept, path)

    def hand_over(self) -> None:
        """Restore the outputs after the job has failed, and tell Snakemake's persistence."""
        self.put_back()
        for path in self._copies:
            self._persistence.backup_output(path)

    def kept_for(self, done: Callable[[JobReport], None]) -> Callable[[JobReport], None]:
        """Return a callback that first restores or forgets the outputs, then calls ``done``."""

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
    """Keep Snakemake from removing an output that a failed job was to update but never touched.

    Snakemake restores the outputs of which it has a copy, and removes the others.
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
    """Remove a file or a directory, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
