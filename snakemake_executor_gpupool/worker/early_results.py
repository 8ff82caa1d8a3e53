"""Results of a large job that come before it is written: piece by piece, unpacked at once.

So neither side has all of them packed, in one frame, beside what they are unpacked to.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.payload import load_payloads


class EarlyResults:
    """Of one job, the one that is written next."""

    def __init__(self) -> None:
        self._forget(-1)

    def _forget(self, job_id: int) -> None:
        self._job_id = job_id
        self._names: list[str] = []
        self._values: list[Any] = []
        self._error: Exception | None = None

    def take(self, frame: Frame) -> None:
        """Take the next ones in; what goes wrong is raised when the job is written."""
        if frame.meta["job"] != self._job_id:
            self._forget(frame.meta["job"])
        if self._error is None:
            try:
                self._values += load_payloads(frame.blobs)
                self._names += frame.meta["names"]
            except Exception as error:  # of somebody else's class
                self._error = error

    def of(self, job_id: int, count: int) -> tuple[list[str], list[Any]]:
        """Return the names and values of a job's first items, and forget them.

        Raises
        ------
        ProtocolError
            There are not as many as there should be.
        Exception
            What unpacking one of them has raised.
        """
        if job_id != self._job_id:
            self._forget(job_id)
        names, values, error = self._names, self._values, self._error
        self._forget(-1)
        if error is not None:
            raise error
        if len(values) != count:
            raise ProtocolError(f"{len(values)} results came before the last, not {count}")
        return names, values
