"""The hidden directories beside outputs that tools write into.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection

from snakemake_executor_gpupool.wire.staging_names import staging_prefix


class StagingFolders:
    """Makes hidden directories, and lets several jobs have one, one after the other.

    To make and remove a directory takes many disks as long as to write fifty small files. Each job
    finds it empty, under a name of its own: what an earlier job's tool has left running finds
    nothing there.
    """

    def __init__(self) -> None:
        #: By directory, all of them absolute; and whether jobs get absolute paths.
        self._spare: dict[str, tuple[str, bool]] = {}

    def take(self, parent: str) -> str:
        """Return a hidden directory in a directory, which is made if need be.

        Raises
        ------
        OSError
            There can be none.
        """
        prefix = staging_prefix()
        spare, is_absolute = self._spare.pop(os.path.abspath(parent), ("", False))
        if spare:
            where = os.path.dirname(spare) if is_absolute else parent or "."
            folder = os.path.join(where, prefix + os.urandom(8).hex())
            with contextlib.suppress(OSError):  # somebody has removed it
                os.rename(spare, folder)
                return folder
        os.makedirs(parent or ".", exist_ok=True)
        return tempfile.mkdtemp(prefix=prefix, dir=parent or ".")

    def give_back(self, folder: str) -> None:
        """Keep a directory for the next job, without what the last one has left in it."""
        with contextlib.suppress(OSError):
            place = os.path.abspath(folder)
            parent = os.path.dirname(place)
            # One job may have two: for outputs by relative paths, and by absolute ones.
            if parent not in self._spare and not os.listdir(folder):
                self._spare[parent] = place, os.path.isabs(folder)
                return
        remove_folder(folder)

    def clear(self, keep: Collection[str] = (), below: Collection[str] = ()) -> None:
        """Remove those that no job has, but for those in, or ``below``, some absolute paths."""
        roots = tuple(f"{path}{os.sep}" for path in below)
        gone = [path for path in self._spare if path not in keep and not path.startswith(roots)]
        for parent in gone:
            remove_folder(self._spare.pop(parent)[0])


def remove_folder(folder: str) -> None:
    """Remove a directory with all that is in it, as far as possible."""
    try:
        os.rmdir(folder)  # most often it is empty
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
