"""Outputs appear complete or not at all.

A tool writes into a hidden directory beside each output, under the output's own
base name; once it has returned, every file is renamed into place. A rename
within one directory tree is atomic, so no reader, crash or kill ever meets half
a file under a final name. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from snakemake_executor_gpupool.tool import Named

STAGING_PREFIX = ".gpupool-"


@contextlib.contextmanager
def staged_outputs(outputs: Named) -> Iterator[Named]:
    """Yield temporary paths for ``outputs``; rename them into place on a clean exit.

    Raises
    ------
    OSError
        A directory cannot be written, or the disk is full. Nothing is left
        under the final names by this call, nor any temporary file.
    """
    stages: dict[str, str] = {}
    try:
        yield outputs.mapped(lambda path: _staged_path(path, stages))
        for path in outputs:
            staged = _staged_path(path, stages)
            if os.path.lexists(staged):
                _move_into_place(staged, path)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def _staged_path(path: str, stages: dict[str, str]) -> str:
    parent, base = os.path.split(os.path.normpath(path))
    if parent not in stages:
        os.makedirs(parent or ".", exist_ok=True)
        stages[parent] = tempfile.mkdtemp(
            prefix=f"{STAGING_PREFIX}{os.getpid()}-", dir=parent or "."
        )
    return os.path.join(stages[parent], base)


def _move_into_place(staged: str, path: str) -> None:
    if os.path.isdir(staged) and os.path.isdir(path):
        # Snakemake may have made the directory of a directory() output beforehand.
        shutil.rmtree(path)
    os.replace(staged, path)
