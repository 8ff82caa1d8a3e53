"""Files that a test writes, and writes anew so that only their content tells."""

from __future__ import annotations

import os
from pathlib import Path


def write(files: dict[str, str]) -> None:
    """Write files by their names, with the directories that they need."""
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def replace(path: str, text: str) -> None:
    """Write other content of the same size, with the same times."""
    status = Path(path).stat()
    Path(path).write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
