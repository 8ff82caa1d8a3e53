"""Results kept across runs, by content.

::

    <dir>/ab/abcdef...   one pickled result, named by the SHA-256 of
                         (tool and version, model params and files, run params, item)

Workers write, each result under a temporary name first; the coordinator only looks whether
a name is there, and takes a hard link of its own, so that another run's clean-up cannot take
the file away in between. Nothing is locked: a name's content never changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Hashable, Mapping
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.wire.frames import SpoolFile
from snakemake_executor_gpupool.worker.result_file import entry_name

DEFAULT_BOUND_GIB = 20.0
#: What a clean-up leaves: it is not worth removing one file at a time.
KEPT_SHARE = 0.9


def bound_from(environment: Mapping[str, str]) -> int:
    """Return the store's bound in bytes, from ``GPUPOOL_CACHE_GIB``."""
    text = environment.get("GPUPOOL_CACHE_GIB", "")
    try:
        return int(float(text or DEFAULT_BOUND_GIB) * 1024**3)
    except ValueError:
        raise ConfigError(f"GPUPOOL_CACHE_GIB is {text!r}; it must be a number of GiB") from None


class ResultStore:
    """One directory of results.

    Parameters
    ----------
    directory
        Made if it is not there.
    bound_bytes
        How much it may hold; the longest unused go first, when a run ends.
    links
        A directory for this run's own links to entries.

    Raises
    ------
    ConfigError
        The directory cannot be made or used, or strangers could put results into it: what is
        in it is unpickled.
    """

    def __init__(self, directory: Path, bound_bytes: int, links: Path) -> None:
        self.directory = directory.absolute()
        self._bound_bytes = bound_bytes
        self._links = links
        self._numbers = 0
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            links.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.directory.stat()
        except OSError as error:
            raise ConfigError(f"the cache {directory} cannot be used: {error.strerror}") from error
        self._check(status)

    def _check(self, status: os.stat_result) -> None:
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"the cache {self.directory} belongs to somebody else or is open to everybody: "
                "results in it are trusted. Choose a directory of your own (chmod o-w)"
            )
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise ConfigError(f"the cache {self.directory} cannot be written")

    def look_up(self, key: Hashable) -> SpoolFile | None:
        """Return a link to a key's result; None if it is not there."""
        name = entry_name(key)
        entry = self.directory / name[:2] / name
        try:
            size_bytes = entry.stat().st_size
            link = self._link(entry)
            os.utime(entry)
        except OSError:
            return None
        return SpoolFile(str(link), size_bytes)

    def _link(self, entry: Path) -> Path:
        self._numbers += 1
        link = self._links / f"{os.getpid()}-cached-{self._numbers}.blob"
        try:
            os.link(entry, link)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(entry, link)
        return link

    def clean_up(self) -> None:
        """Bring the directory under its bound, and remove what killed writers left."""
        entries = []
        for path in self.directory.glob("??/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= self._bound_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= self._bound_bytes * KEPT_SHARE:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
