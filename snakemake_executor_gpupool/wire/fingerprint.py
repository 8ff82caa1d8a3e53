"""What tells one installation of gpupool from another: its files, by size, time and number.

Standard library only, Python >= 3.9; light, since a client of a server computes it each time.
"""

from __future__ import annotations

import hashlib
import os

PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def fingerprint(package_dir: str = PACKAGE_DIR) -> str:
    """Return a digest of the package's files as the file system describes them."""
    lines: list[str] = []
    _look(package_dir, "", lines)
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _look(directory: str, prefix: str, lines: list[str]) -> None:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # it is being replaced: another fingerprint
    for entry in entries:
        if entry.name.endswith(".py"):
            try:
                status = entry.stat()
            except OSError:
                continue
            lines.append(f"{prefix}{entry.name}:{status.st_size}:{status.st_mtime_ns}")
        elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
            _look(entry.path, f"{prefix}{entry.name}/", lines)
