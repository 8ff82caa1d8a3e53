"""Images of containers, told apart by their content; each version of one is read once."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_gpupool.errors import Uncontainable
from snakemake_executor_gpupool.hosts.containers import image_version
from snakemake_executor_gpupool.worker.file_digests import sha256_of, sha256_of_large
from snakemake_executor_gpupool.worker.named_files import is_settled

#: Directory of Snakemake's own where workers in containers note digests of large files.
NOTES = "gpupool-digests"
#: How often an image is read again that changes meanwhile.
MAX_READS = 3

#: Digests of images by path and version.
digests: dict[tuple[str, str], str] = {}
#: Held while one is read: others may wait for the same.
_reading = threading.Lock()


def notes_of(own: Path, digest: str) -> Path:
    """Return where workers in an image note digests: in a place that each of them sees.

    The times of files in an image are as its maker has set them, so another image may have the
    same for another content.

    Parameters
    ----------
    own
        Snakemake's own directory of a workflow.
    digest
        Of the image.
    """
    return own / NOTES / digest.removeprefix("sha256:")[:16]


def read_image(path: str) -> tuple[str, str]:
    """Return the version of an image, and the digest of its content; read once for each version.

    Raises
    ------
    Uncontainable
        It cannot be read, or changes meanwhile.
    """
    with _reading:
        return _read_image(path)


def _read_image(path: str) -> tuple[str, str]:
    for _ in range(MAX_READS):
        version = image_version(path)
        known = digests.get((path, version))
        if known is not None:
            return version, known
        try:
            digest = f"sha256:{_digest(path)}"
        except OSError as error:
            what = f"{error.filename}: {error.strerror}"
            raise Uncontainable(f"the image of its container cannot be read: {what}") from error
        if image_version(path) == version:
            digests[path, version] = digest
            return version, digest
    raise Uncontainable(
        f"the image of its container, {path}, changes while it is read: try again later"
    )


def _digest(path: str) -> str:
    status = os.stat(path)  # noqa: PTH116
    if stat.S_ISDIR(status.st_mode):
        return _digest_of_directory(path)
    return sha256_of_large(path, status) if is_settled(status) else sha256_of(path)


def _digest_of_directory(top: str) -> str:
    """Return a digest of an image that is a directory: of names, modes, links and contents."""
    total = hashlib.sha256()
    for name, what in sorted(_entries(top)):
        total.update(f"{len(os.fsencode(name))} ".encode() + os.fsencode(name) + what.encode())
    return total.hexdigest()


def _entries(top: str) -> Iterator[tuple[str, str]]:
    for directory, inner, names in os.walk(top):
        for entry in (*inner, *names):
            path = os.path.join(directory, entry)  # noqa: PTH118
            status = os.lstat(path)
            what = oct(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                what += f" {os.readlink(path)}"  # noqa: PTH115
            elif stat.S_ISREG(status.st_mode):
                what += f" {_content(path, status)}"
            yield os.path.relpath(path, top), what


def _content(path: str, status: os.stat_result) -> str:
    try:
        return sha256_of(path)
    except PermissionError:  # of another user, such as a file of passwords
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
