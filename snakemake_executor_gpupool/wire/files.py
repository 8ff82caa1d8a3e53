"""Files that pool and workers both remove. Standard library only, Python >= 3.9."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable


def remove(paths: Iterable[str]) -> None:
    """Remove files and directories, those of them that are there."""
    for path in paths:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
