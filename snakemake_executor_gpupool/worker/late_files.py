"""Files that another machine has written may become visible here with a delay.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile
from snakemake_executor_gpupool.wire.late import wait_until


def wait_for_files(paths: Iterable[str], wait_s: float) -> list[str]:
    """Wait until all of these files exist, for ``wait_s`` at most. Never raises.

    Returns
    -------
    list
        Those that do not.
    """
    return wait_until(paths, os.path.exists, wait_s)


def wait_for_blobs(blobs: Iterable[Blob], wait_s: float) -> dict[str, InputError]:
    """Wait until all of these blobs can be read whole, for ``wait_s`` at most.

    Returns
    -------
    dict
        The error for each file that is missing or incomplete.
    """
    ends: dict[str, int] = {}
    for blob in blobs:
        if isinstance(blob, SpoolFile):
            ends[blob.path] = max(ends.get(blob.path, 0), blob.offset + blob.size_bytes)
    late = wait_until(ends, lambda path: _size_bytes(path) >= ends[path], wait_s)
    return {path: InputError(_explain(path, wait_s)) for path in late}


def _explain(path: str, wait_s: float) -> str:
    return (
        f"{path}, which another process of this run has written, was not completely visible on "
        f"this node within {wait_s:g} s: raise --latency-wait, or check the file system"
    )


def _size_bytes(path: str) -> int:
    """Return a file's size; -1: it does not exist. Opening it refreshes a network file system."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return -1
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
