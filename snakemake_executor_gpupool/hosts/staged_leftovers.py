"""What a writing process leaves beside a job's outputs when it is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from snakemake_executor_gpupool.wire.staging_names import maker_of


def remove_staged(outputs: Iterable[str]) -> None:
    """Remove hidden directories of processes that have ended, where outputs were to be."""
    remove_staged_in({Path(path).parent for path in outputs})


def remove_staged_in(parents: Iterable[Path]) -> None:
    """Remove hidden directories of processes that have ended, in some directories.

    Those of other machines and of containers are left: whether a process there has ended is not
    known here, and a directory that was removed in part while it is written would be published so.
    """
    for parent in parents:
        try:
            folders = list(parent.iterdir())
        except OSError:
            continue
        for folder in folders:
            pid = maker_of(folder.name)
            if pid is not None and _has_ended(pid):
                shutil.rmtree(folder, ignore_errors=True)


def _has_ended(pid: int) -> bool:
    # psutil looks into /proc, which may hide the processes of other users.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False
