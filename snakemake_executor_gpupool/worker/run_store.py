"""The store of results kept across runs that the frames of a run name.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.kept import StoreAddress
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.result_file import KeptResults


class RunStore:
    """Opens the store that frames name, and reports its problems, once of each kind."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kept: KeptResults | None = None
        self._reported: set[str] = set()

    def of(self, frame: Frame) -> KeptResults | None:
        """Return the store that a frame names; it is the same for a whole run."""
        address = frame.meta["store"]
        if address is not None and self._kept is None:
            self._kept = KeptResults(StoreAddress(*address), self._report)
        return None if address is None else self._kept

    def _report(self, kind: str, why: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._channel.send({"type": "store_trouble", "kind": kind, "why": printable(why)})
