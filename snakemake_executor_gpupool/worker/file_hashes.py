"""SHA-256 and size of the files of jobs, for the provenance of outputs.

A hash is written ``size:sha256``. That of a directory is ``dir:size:sha256``: the SHA-256 of what
``sha256sum`` prints for all its files, sorted by their paths relative to it, and their total size.
What cannot be said for certain is the empty text: a file that is missing, that is no plain file,
that cannot be read, or that was changed meanwhile.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

#: Of so many files of a job, or of a directory, the content is looked at.
MAX_FILES = 10_000
CHUNK_BYTES = 1024**2
#: A file that was changed less than so long ago may change again without a visible difference.
SETTLED_S = 2.0
#: How many hashes are cached: of inputs that many jobs have in common.
MAX_CACHED = 10_000

_Version = tuple[int, ...]
_CACHE: OrderedDict[_Version, str] = OrderedDict()


def hashes_of(paths: Iterable[str]) -> list[str]:
    """Return the hash of each file; beyond ``MAX_FILES`` they are unknown."""
    return [hash_of(path) if number < MAX_FILES else "" for number, path in enumerate(paths)]


def hash_of(path: str) -> str:
    """Return a file's or directory's hash; empty: unknown. Never raises for what it finds."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _hash_of_directory(path)
        return _hash_of_file(path) if stat.S_ISREG(status.st_mode) else ""
    except (OSError, ValueError):
        return ""


class Watched:
    """Files that are about to be read: :meth:`hashes` says of what content that was.

    Parameters
    ----------
    paths
        Of a job's inputs.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._before = self._versions()

    def _versions(self) -> list[_Version | None]:
        return [version_of(path) for path in self._paths[:MAX_FILES]]

    def hashes(self) -> list[str]:
        """Return the hash of each file, unknown if it has changed since it was to be read."""
        found = hashes_of(self._paths)
        pairs = zip(self._before, self._versions())
        for number, (before, after) in enumerate(pairs):
            if before is None or before != after:
                found[number] = ""
        return found


def version_of(path: str) -> _Version | None:
    """Return what any write to a file changes; None: there is none."""
    try:
        return _version(os.stat(path))
    except (OSError, ValueError):
        return None


def _version(status: os.stat_result) -> _Version:
    times = status.st_mtime_ns, status.st_ctime_ns
    return (status.st_dev, status.st_ino, status.st_size, *times)


def _hash_of_file(path: str) -> str:
    # It may have become a pipe just now, which must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        version = _version(status)
        known = _CACHE.get(version)
        if known is not None:
            return known
        total, size = hashlib.sha256(), 0
        # No larger than needed: allocating a megabyte takes longer than reading a small file.
        chunk_bytes = min(status.st_size + 1, CHUNK_BYTES)
        while chunk := file.read(chunk_bytes):
            total.update(chunk)
            size += len(chunk)
        if _version(os.fstat(descriptor)) != version or size != status.st_size:
            return ""
    found = f"{size}:{total.hexdigest()}"
    if _is_settled(status):
        _CACHE[version] = found
        if len(_CACHE) > MAX_CACHED:
            _CACHE.popitem(last=False)
    return found


def _is_settled(status: os.stat_result) -> bool:
    times_s = status.st_mtime, status.st_ctime
    return all(abs(time.time() - time_s) > SETTLED_S for time_s in times_s)


def _hash_of_directory(top: str) -> str:
    paths: list[str] = []
    for directory, _, files in os.walk(top):
        paths += [os.path.join(directory, name) for name in files]
        if len(paths) > MAX_FILES:
            return ""
    total, size_bytes = hashlib.sha256(), 0
    for name, path in sorted((os.path.relpath(path, top), path) for path in paths):
        found = hash_of(path)
        if not found:
            return ""
        size, _, content = found.partition(":")
        total.update(os.fsencode(f"{content}  {name}\n"))
        size_bytes += int(size)
    return f"dir:{size_bytes}:{total.hexdigest()}"
