"""Snakemake's files of a job, one that it has begun and the record of each output, written at once.

Each is a new file as a rule. Snakemake asks whether it is there, makes its directory anew, and has
the slower of Python's two JSON encoders write it piece by piece: a fifteenth of what it does for a
small job. A new file is created and written whole; any other, and all that fails, is Snakemake's.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any


def write_new_ones_at_once(persistence: Any) -> None:
    """Have Snakemake's files of jobs written this way from now on, if they are files at all."""
    usual = getattr(persistence, "_io_write", None)
    record_path = getattr(persistence, "_record_path", None)
    if usual is None or record_path is None or isinstance(usual, Records):
        return
    taken = list(inspect.signature(usual).parameters.values())
    if [each.name for each in taken] == ["subject", "json_value", "id", "mode"]:
        persistence._io_write = Records(usual, record_path, taken[-1].default)


class Records:
    """Stands in for a persistence's ``_io_write``.

    Parameters
    ----------
    usual, record_path
        Snakemake's ways to write a file, and to name it.
    mode
        Its permissions, unless others are given.
    """

    def __init__(
        self, usual: Callable[..., None], record_path: Callable[[str, str], str], mode: int
    ) -> None:
        self._usual, self._record_path, self._mode = usual, record_path, mode

    def __call__(self, subject: str, json_value: Any, id: str, *mode: int, **more: int) -> None:
        """Write a value to the file of a path."""
        if mode or more or not self._create(self._record_path(subject, id), json_value):
            self._usual(subject, json_value, id, *mode, **more)

    def _create(self, path: str, json_value: Any) -> bool:
        """Return whether a new file has it all."""
        try:
            data = json.dumps(json_value).encode()
            # A file object would ask the system three more things, and each of them hands
            # Python's lock to whoever waits for it.
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.fchmod(file, self._mode)
                return os.write(file, data) == len(data)
            finally:
                os.close(file)
        except (OSError, TypeError, ValueError):
            return False
