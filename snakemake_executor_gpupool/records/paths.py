"""The files of a run: the only place that knows their names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.records.owned import OwnedDirectory, sweep_parts, sweep_whole

MEMORY_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
SPOOL_PREFIX = "gpupool-"
#: Beside the runs, since it outlives them.
PROVENANCE = "provenance.jsonl"


def open_private(path: str, flags: int) -> int:
    """Open a file, readable by this user alone if it is new: an ``opener`` for :func:`open`."""
    return os.open(path, flags, 0o600)


class RunPaths:
    """The files of one run; :meth:`create` makes the directories.

    Parameters
    ----------
    root
        The directory that gets one subdirectory per run; absolute if ``shared``.
    shared
        Whether other machines use the directory too. Large blobs then lie there, and not in
        this machine's memory, which the others cannot see.
    temporary
        Whether ``root``, an existing directory of this run alone, is removed at its end.

    ::

        <root>/<run id>/events.jsonl   one JSON object a line
                        jobs.tsv       one line a job, what it took
                        recording.jsonl  of a run that is recorded
                        summary.json
                        workers/*.log
                        spool/         large blobs, when memory is short
                        staged-*/      outputs of jobs that are not ready yet
                        .lock          held while the run lives
        <root>/latest                  points at the newest run
        <root>/provenance.jsonl        where the outputs of all runs came from
    """

    def __init__(
        self,
        root: Path,
        run_id: str | None = None,
        *,
        shared: bool = False,
        temporary: bool = False,
    ) -> None:
        self.root = root
        self._is_temporary = temporary
        self.is_shared = shared
        self.run_id = run_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.directory = root / self.run_id
        self.workers = self.directory / "workers"
        self.events = self.directory / "events.jsonl"
        self.recording = self.directory / "recording.jsonl"
        self.summary = self.directory / "summary.json"
        self.jobs_table = self.directory / "jobs.tsv"
        self.provenance = root / PROVENANCE
        self._disk_spool = self.directory / "spool"
        self._memory_spool: OwnedDirectory | None = None
        self._run: OwnedDirectory | None = None
        # A unique name: items that mention it were read from there.
        self._staged = self.directory / f"staged-{secrets.token_hex(8)}"

    def create(self) -> None:
        """Create the directories, for this user alone.

        Also removes what killed runs left in the same places.

        Raises
        ------
        ConfigError
            They cannot be created; the disk is full, for example.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            for directory in (self.directory, self.workers, self._disk_spool):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the files of the run cannot be created in {self.root}: {error.strerror}"
            ) from error
        self._run = OwnedDirectory(self.root if self._is_temporary else self.directory)
        if not self.is_shared:
            with contextlib.suppress(OSError):  # it is full or missing: the disk is used
                prefix = f"{SPOOL_PREFIX}{os.getpid()}-"
                self._memory_spool = OwnedDirectory.make(MEMORY_FILE_SYSTEM, prefix)

    def _sweep(self) -> None:
        sweep_whole(MEMORY_FILE_SYSTEM.glob(f"{SPOOL_PREFIX}*"))
        if self._is_temporary:
            sweep_whole(self.root.parent.glob(f"{SPOOL_PREFIX}*"))
        else:
            sweep_parts(self.root.iterdir(), ("spool", "staged-*"))

    def point_latest(self) -> None:
        """Have ``latest`` point at this run, which has begun. Never raises."""
        staged = self.root / f".latest-{self.run_id}"
        with contextlib.suppress(OSError):  # something else has that name: the run goes on without
            staged.unlink(missing_ok=True)
            staged.symlink_to(self.run_id)
            staged.replace(self.root / "latest")
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)

    @property
    def spools(self) -> list[str]:
        """Directories for large blobs, the preferred first."""
        spools = [self._memory_spool.path] if self._memory_spool is not None else []
        # Not resolved: another machine may resolve the same directory to another name.
        return [str(spool.absolute()) for spool in (*spools, self._disk_spool)]

    @property
    def temporary(self) -> list[Path]:
        """Directories that the reaper removes; empty for a run that another process created."""
        if self._run is None:
            return []
        spools = [self._memory_spool.path] if self._memory_spool is not None else []
        return [*spools, *([self.root] if self._is_temporary else [self._disk_spool, self._staged])]

    @property
    def staged(self) -> str:
        """Directory for outputs of jobs that are not ready yet; created on first use."""
        return str(self._staged.resolve())

    def worker_log(self, worker_id: str) -> Path:
        """Return the log file of a worker, for its standard output and error."""
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in worker_id)
        if safe != worker_id:  # other ids may give the same name
            safe += f"-{hashlib.sha256(worker_id.encode()).hexdigest()[:8]}"
        return self.workers / f"{safe}.log"

    def remove_staged(self) -> None:
        """Remove outputs that no job has claimed, or all files of a temporary run; at its end."""
        shutil.rmtree(self._staged, ignore_errors=True)
        if self._run is None:
            return
        if self._is_temporary:
            self._run.remove()
        else:
            self._run.unlock()

    def remove_spools(self) -> None:
        """Remove the large blobs that are left."""
        if self._memory_spool is not None:
            self._memory_spool.remove()
        shutil.rmtree(self._disk_spool, ignore_errors=True)
