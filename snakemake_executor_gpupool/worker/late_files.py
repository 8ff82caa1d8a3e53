"""Files that another machine has written may become visible here with a delay.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Callable

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.wire.frames import Blob, SpoolFile

POLL_S = 0.1


def wait_for_files(paths: Iterable[str], wait_s: float) -> None:
    """Wait until all of these files exist, for ``wait_s`` at most. Never raises."""
    _wait(paths, os.path.exists, wait_s)


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
    late = _wait(ends, lambda path: _size_bytes(path) >= ends[path], wait_s)
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


def _wait(paths: Iterable[str], is_there: Callable[[str], bool], wait_s: float) -> list[str]:
    """Wait until all exist, for ``wait_s`` at most; return those that do not."""
    deadline_s = time.monotonic() + wait_s
    missing = [path for path in paths if not is_there(path)]
    while missing and time.monotonic() < deadline_s:
        for folder in {os.path.dirname(path) or "." for path in missing}:
            if os.path.isdir(folder):  # listing it makes network file systems look again
                os.listdir(folder)
        time.sleep(POLL_S)
        missing = [path for path in missing if not is_there(path)]
    return missing
