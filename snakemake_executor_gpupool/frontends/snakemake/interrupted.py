"""What a run that was killed has left beside outputs: hidden directories, with half of them.

A run that ends removes those of its own writers. After SIGKILL of the whole run nobody does, so
the next run of the workflow does: of outputs that were begun and not finished there are markers.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.hosts.staged_leftovers import remove_staged_in


class Interrupted:
    """Directories of outputs that earlier runs have not finished.

    To be made before this run starts jobs: then there are markers of earlier ones alone, and of
    runs that share the directory, whose writers are alive.

    Parameters
    ----------
    persistence
        Snakemake's; of one that keeps its markers in another way nothing is known.
    """

    def __init__(self, persistence: Any) -> None:
        place = getattr(persistence, "_incomplete_path", None)
        self._parents = {Path(path).parent for path in _begun(place)} if place else set()
        self.remove_leftovers()  # as this run may be killed, too; and at its end, of late writers

    def remove_leftovers(self) -> None:
        """Remove what writers that have ended left there."""
        remove_staged_in(self._parents)


def _begun(place: str) -> Iterator[str]:
    """Yield the outputs whose markers are in a directory."""
    for folder, _, names in os.walk(place):
        for name in names:
            # A long name is divided into directories.
            *before, last = Path(folder, name).relative_to(place).parts
            text = "".join([part.removeprefix("@") for part in before] + [last])
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                path = base64.urlsafe_b64decode(text).decode()
                if "\0" not in path:
                    yield path
