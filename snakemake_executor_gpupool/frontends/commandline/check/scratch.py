"""Temporary directories of a check."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_gpupool.records.owned import OwnedDirectory, sweep_whole

PREFIX = "gpupool-check-"


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a temporary directory, removed at the end.

    What a killed check left is removed by the next one.
    """
    parent = Path(tempfile.gettempdir()).resolve()
    sweep_whole(parent.glob(f"{PREFIX}*"))
    owned = OwnedDirectory.make(parent, PREFIX)
    try:
        yield owned.path
    finally:
        owned.remove()
