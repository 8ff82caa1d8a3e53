"""Blobs as files of the run's spool directories: written, shared, removed.

On one machine a large blob is a file of its own, in memory if there is room. Between machines,
blobs too large for a message go to the shared file system: all blobs of one frame in one file,
since every file costs a network file system several round trips::

    0            64-byte boundary            64-byte boundary
    | blob 0 ... | blob 1 ...                | blob 2 ...            each a SpoolFile, sharers = 3

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from snakemake_executor_gpupool.wire.bounds import INLINE_BYTES
from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile

#: Bytes of blobs that a message between machines may carry. The message is sent anyway; a file
#: beside it costs a network file system several round trips.
MESSAGE_BYTES = 16 * 1024
#: Blobs in one file start at multiples of this, so that their arrays are aligned.
ALIGNMENT = 64


class Spool:
    """Writes blobs into files of the run's directories.

    Parameters
    ----------
    directories
        Where to write, the preferred first: a memory file system, then the disk.
        One with less free space than twice the blob is skipped, and so is one that cannot take
        a file for another reason: no inodes, filled meanwhile, removed.
    shared
        Whether other machines read and write there too.
    """

    def __init__(self, directories: Sequence[str], *, shared: bool = False) -> None:
        self.directories = list(directories)
        self._shared = shared
        self._numbers = itertools.count()
        # Another machine, or a later process, may have the same process id.
        self._own = f"{os.getpid()}-{os.urandom(6).hex()}"

    @property
    def shared_directories(self) -> list[str]:
        """The directories, if other machines use them, too."""
        return self.directories if self._shared else []

    def put(self, parts: Sequence[Any], inline_bytes: int = SPOOL_BYTES) -> Blob:
        """Return parts (bytes, or views of bytes) as one blob, in memory if small, else a file."""
        size_bytes = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if size_bytes <= min(SPOOL_BYTES, inline_bytes) or not self.directories:
            return parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)
        *preferred, last = self._choose(size_bytes)
        for directory in preferred:
            with contextlib.suppress(OSError):
                return self._write(directory, parts, size_bytes)
        return self._write(last, parts, size_bytes)

    def _write(self, directory: str, parts: Sequence[Any], size_bytes: int) -> SpoolFile:
        descriptor, path = self._create(directory)
        try:
            with open(descriptor, "wb") as file:
                file.writelines(parts)
        except OSError as error:
            remove_file(path)
            raise OSError(error.errno, error.strerror, path) from error
        return SpoolFile(path, size_bytes)

    def bundle(self) -> Bundle:
        """Return a bundle for the blobs of one frame."""
        return SharedFileBundle(self) if self._shared and self.directories else Bundle(self)

    def create(self, size_bytes: int) -> tuple[int, str]:
        """Open a new file for about so many bytes; return its descriptor and path."""
        *preferred, last = self._choose(size_bytes)
        for directory in preferred:
            with contextlib.suppress(OSError):
                return self._create(directory)
        return self._create(last)

    def _create(self, directory: str) -> tuple[int, str]:
        path = os.path.join(directory, f"{self._own}-{next(self._numbers)}.blob")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), path

    def _choose(self, size_bytes: int) -> list[str]:
        """Return the directories with enough room, and in any case the last one."""
        *preferred, last = self.directories
        return [*(each for each in preferred if _has_room(each, size_bytes)), last]


def _has_room(directory: str, size_bytes: int) -> bool:
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize > 2 * size_bytes


class Bundle:
    """Gathers the blobs of a frame: each by itself, in memory or in a file of its own.

    A context manager: blobs that were not taken are removed at its end.
    """

    _path = ""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._blobs: list[Blob] = []
        self._inline_bytes = 0

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *error: object) -> None:
        if self._blobs or self._path:
            self.drop()

    def add(self, parts: Sequence[Any]) -> None:
        """Add a blob, given as bytes and views of bytes.

        Raises
        ------
        OSError
            There is no room for it; blobs added before are not affected.
        """
        blob = self._spool.put(parts, INLINE_BYTES - self._inline_bytes)
        self._inline_bytes += 0 if isinstance(blob, SpoolFile) else len(blob)
        self._blobs.append(blob)

    def take(self) -> list[Blob]:
        """Return the blobs in order; the bundle is then empty, for another frame.

        Raises
        ------
        OSError
            They could not be written; none is left.
        """
        taken, self._blobs, self._inline_bytes = self._blobs, [], 0
        return taken

    def drop(self) -> None:
        """Remove blobs that were not taken."""
        remove_blobs(self.take())


class SharedFileBundle(Bundle):
    """Gathers the blobs of a frame in one file, unless their total is small."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self._end = 0
        self._descriptor = -1

    def add(self, parts: Sequence[Any]) -> None:
        """Add a blob: in memory while a message may carry all of them, else to the file."""
        size_bytes = sum(len(part) for part in parts)
        if not self._path:
            if self._end + size_bytes <= MESSAGE_BYTES:
                self._blobs.append(b"".join(parts))
                self._end += size_bytes
                return
            self._move_to_file(self._end + size_bytes)
        self._append(parts, size_bytes)

    def _move_to_file(self, size_bytes: int) -> None:
        self._descriptor, self._path = self._spool.create(size_bytes)
        in_memory, self._blobs, self._end = self._blobs, [], 0
        for blob in in_memory:
            self._append([blob], len(blob))

    def _append(self, parts: Sequence[Any], size_bytes: int) -> None:
        offset = self._end + -self._end % ALIGNMENT
        try:
            _write_at(self._descriptor, parts, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
        self._blobs.append(SpoolFile(self._path, size_bytes, offset))
        self._end = offset + size_bytes

    def take(self) -> list[Blob]:
        """Close the file and return its blobs; network file systems show it after that."""
        taken, self._blobs, self._end = self._blobs, [], 0
        path, self._path = self._path, ""
        if not path:
            return taken
        try:
            os.close(self._descriptor)
        except OSError as error:
            remove_file(path)
            raise OSError(error.errno, error.strerror, path) from error
        if not taken:  # there was no room for the only blob
            remove_file(path)
        return [blob._replace(sharers=len(taken)) for blob in taken]  # type: ignore[union-attr]

    def drop(self) -> None:
        """Remove the file, if it was not taken."""
        with contextlib.suppress(OSError):
            for blob in self.take()[:1]:
                if isinstance(blob, SpoolFile):
                    remove_file(blob.path)


def _write_at(descriptor: int, parts: Sequence[Any], offset: int) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written


def remove_file(path: str) -> None:
    """Remove a file, if it is there."""
    # The name comes from a worker, and may be one that no file can have.
    with contextlib.suppress(OSError, ValueError):
        os.unlink(path)


def remove_blobs(blobs: Iterable[Blob]) -> None:
    """Remove the files of blobs, each of which has one of its own, or is in memory."""
    for blob in blobs:
        if isinstance(blob, SpoolFile):
            remove_file(blob.path)


class Discards:
    """Removes files of the spool, a shared one with the last of its blobs.

    Parameters
    ----------
    remove
        Called with the path of a file that is no longer needed.
    """

    def __init__(self, remove: Callable[[str], None] = remove_file) -> None:
        self._remove = remove
        #: How many blobs of a file are still needed; only files of which some were discarded.
        self._needed: dict[str, int] = {}

    def discard(self, blob: Blob | None) -> None:
        """Note that a blob is no longer needed."""
        if not isinstance(blob, SpoolFile):
            return
        needed = self._needed.pop(blob.path, blob.sharers) - 1
        if needed > 0:
            self._needed[blob.path] = needed
        else:
            self._remove(blob.path)
