"""The store of results kept across runs that the frames of a run name.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import printable
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.kept import REFUSED, UNCOVERED, StoreAddress
from snakemake_executor_gpupool.worker.channel import Channel
from snakemake_executor_gpupool.worker.code_digest import forget_changed_code
from snakemake_executor_gpupool.worker.dependencies import found, holds
from snakemake_executor_gpupool.worker.describe import describe_model, item_key, key_text
from snakemake_executor_gpupool.worker.observed import OBSERVER
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.travel import Unreadable


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

    def to_read(self, frame: Frame, tool_class: type[Tool]) -> KeptResults | None:
        """Return the store that a frame names, ready for a job's look-ups."""
        kept = self.of(frame)
        if kept is not None:
            kept.check_with(functools.partial(holds, tool_class=tool_class))
        return kept

    def to_write(
        self,
        kept: KeptResults,
        reader: Tool,
        keys: Sequence[Sequence[str]],
        items: Callable[[], Sequence[Any]],
    ) -> KeptResults | None:
        """Return the store, ready for the results of a batch.

        Parameters
        ----------
        reader
            An object of the tool with the params of the batch.
        keys
            Of the items.
        items
            Returns the items.

        Returns
        -------
        KeptResults or None
            None: they are not kept.
        """
        if _have_changed(reader, keys):
            return None
        name = type(reader).__name__
        depends = found(OBSERVER, reader, items)
        if OBSERVER.remarks:
            self._report(UNCOVERED, f"{name} {' and '.join(OBSERVER.remarks.values())}")
        if depends.why_not:
            self._report(REFUSED, f"{name}: {depends.why_not}")
            return None
        if depends.has_read_items and not {key[3] for key in keys} <= _keys_now(reader, items()):
            return None  # a file has changed between reading and running
        kept.depend_on(depends.packed())
        return kept

    def _report(self, kind: str, why: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._channel.send({"type": "store_trouble", "kind": kind, "why": printable(why)})


def _have_changed(reader: Tool, keys: Sequence[Sequence[str]]) -> bool:
    """Return whether code, weights or files are no longer those that keys were made from."""
    forget_changed_code()
    described = describe_model(reader)
    now = described["model"], described["group"]
    return any(tuple(key[1:3]) != now for key in keys)


def _keys_now(reader: Tool, items: Sequence[Any]) -> set[str]:
    whole = (item for item in items if not isinstance(item, Unreadable))
    return {key_text(item_key(reader, item)) for item in whole}
