"""Digests of large files, computed once for each version of a file, across processes and runs.

A version is told by what the file system changes with any write: device, inode, size, times of
change. Of these nobody can set the time of a status change, so a file of the same size whose time
of modification was set back is another version.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat

CHUNK_BYTES = 4 * 1024**2
#: A digest as it is noted.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NOTE = re.compile(r"[0-9a-f]{64}")


def sha256_of_large(path: str, status: os.stat_result) -> str:
    """Return the SHA-256 of a large file; read again only if the file has changed.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    note = _note_of(path, status)
    known = _noted(note) if note else ""
    if not known:
        known = sha256_of(path)
        if note:
            _write_note(note, known)
    return known


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file."""
    total = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def notes_directory() -> str:
    """Return where digests are noted; empty: nowhere, as there is no home.

    In a container, where the home is the working directory, the coordinator says where.
    """
    given = os.environ.get("GPUPOOL_FILE_DIGESTS")
    if given:
        return given
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "gpupool", "file-digests") if os.path.isabs(base) else ""


def _note_of(path: str, status: os.stat_result) -> str:
    directory = notes_directory()
    times = status.st_mtime_ns, status.st_ctime_ns
    version = os.uname().nodename, status.st_dev, status.st_ino, status.st_size, *times
    name = hashlib.sha256(repr((os.path.realpath(path), *version)).encode()).hexdigest()
    return os.path.join(directory, name) if directory else ""


def _noted(note: str) -> str:
    try:
        descriptor = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, encoding="ascii", errors="replace") as file:
        status = os.fstat(descriptor)
        is_own = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
        text = file.read(65) if is_own and stat.S_ISREG(status.st_mode) else ""
    return text if _NOTE.fullmatch(text) else ""


def _write_note(note: str, digest: str) -> None:
    staged = f"{note}.{os.urandom(8).hex()}"  # process ids are not unique across containers
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(digest)
        os.replace(staged, note)
