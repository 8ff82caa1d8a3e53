"""A worker's side of the store of results: write, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Hashable, Sequence
from typing import Any


def entry_name(key: Hashable) -> str:
    """Return the name of a key's entry; keys are tuples of strings."""
    return hashlib.sha256(repr(key).encode()).hexdigest()


def keep_result(directory: str, name: str, parts: Sequence[Any]) -> None:
    """Write an entry, unless it is there. That it cannot be written harms nobody."""
    folder = os.path.join(directory, name[:2])
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, staged = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with open(descriptor, "wb") as file:
                file.writelines(parts)
            os.replace(staged, path)
        except OSError:
            os.unlink(staged)
            raise
