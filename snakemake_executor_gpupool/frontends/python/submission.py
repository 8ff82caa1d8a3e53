"""What a call from Python submits to the pool: items as a file process describes them, jobs."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.packed import CALL_ITEMS
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.kept import result_key
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import (
    PICKLE_PROTOCOL,
    JobFacts,
    Request,
    ToolRef,
    texts_of,
)
from snakemake_executor_gpupool.wire.spool import Spool, remove_blobs
from snakemake_executor_gpupool.worker.code_digest import forget_changed_code
from snakemake_executor_gpupool.worker.dependencies import holds
from snakemake_executor_gpupool.worker.describe import (
    Described,
    describe_item,
    describe_items,
    describe_model,
)
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.travel import pack_items, packed_item

#: Files of a job: one, several, or several by name.
Files = Sequence[str] | Mapping[str, Any]


def items_read(
    tool: Tool,
    items: Sequence[Any],
    request: Request,
    spool: Spool,
    kept: KeptResults | None,
    first: int,
) -> Iterator[ItemsRead]:
    """Do for a call's items what a file process does for a job's, in pieces; yield each piece.

    Parameters
    ----------
    first
        How many items come first; then ``CALL_ITEMS`` at a time.

    Raises
    ------
    ContractError
        An item cannot be sent to another process, or the tool says of it what makes no sense.
    OSError
        The spool has no room, or is gone.
    """
    forget_changed_code()  # a notebook lives longer than the code that it imports
    if kept is not None:
        kept.check_with(functools.partial(holds, tool_class=type(tool)))
    described = _Described(tool, items, request, spool, kept)
    start, end, count = 0, first, len(items)
    while end < count:
        yield described.part(start, end)
        start, end = end, end + CALL_ITEMS
    yield described.part(start, count)


class _Described:
    """Describes a call's items."""

    def __init__(
        self,
        tool: Tool,
        items: Sequence[Any],
        request: Request,
        spool: Spool,
        kept: KeptResults | None,
    ) -> None:
        self._tool, self._items, self._spool, self._kept = tool, items, spool, kept
        self._job_id = request.job_id
        self._model = ModelInfo.from_fields(Fields(describe_model(tool), "a model"))
        self._head = request.space, self._model.model, self._model.group
        self._seen: set[str] = set()

    def part(self, start: int, end: int) -> ItemsRead:
        """Return some of the items; nothing of them is kept here."""
        payloads: list[Blob] = []
        found: set[int] = set()
        try:
            if self._kept is None:
                pack_items(self._tool, self._items[start:end], start, self._spool, payloads)
                columns = describe_items(self._tool, self._items[start:end], start)
            else:
                columns = self._looked_up(start, end, payloads, found)
        except BaseException:
            remove_blobs(payloads)
            raise
        keys, costs, tokens, names = map(tuple, columns)
        rest = tuple(payloads), frozenset(found), end == len(self._items)
        return ItemsRead(self._job_id, self._model, keys, costs, tokens, names, *rest)

    def _looked_up(
        self, start: int, end: int, payloads: list[Blob], found: set[int]
    ) -> list[Sequence[Any]]:
        """Describe and pack items one by one; the result of a kept one goes in its place."""
        columns: list[Described] = []
        for position in range(start, end):
            parts = packed_item(self._tool, self._items[position], position)
            described = describe_item(self._tool, self._items[position], position)
            columns.append(described)
            result = self._find(described.key)
            if result is not None:
                found.add(position - start)
                parts = [result]
            payloads.append(self._spool.put(parts))
        return list(zip(*columns, strict=True)) or [()] * 4

    def _find(self, key: str) -> bytearray | None:
        """Return an item's kept result, once for all that are equal; None: there is none."""
        if self._kept is None or key in self._seen:
            return None
        self._seen.add(key)
        return self._kept.find(result_key(*self._head, key))


class Bringing:
    """A call's items on their way to the pool: one bit is ready while the pool has the last ones.

    A context manager: what the pool does not have at its end is removed.

    Parameters
    ----------
    pieces
        Of the items, as :func:`items_read` yields them.
    count
        How many items there are.
    """

    def __init__(
        self, pool: Pool, request: Request, info: ToolInfo, pieces: Iterator[ItemsRead], count: int
    ) -> None:
        self._pool, self._request, self._info = pool, request, info
        self._pieces, self._to_come = pieces, count
        # Nothing else keeps what the pool lets go of.
        self._ready: list[ItemsRead] = []
        self._prepare()

    def _prepare(self) -> None:
        self._ready += itertools.islice(self._pieces, 1)

    def _next(self) -> ItemsRead:
        items = self._ready.pop()
        self._to_come -= len(items.keys)
        return items

    def submit(self) -> None:
        """Hand the first items over."""
        self._pool.submit_items(self._request, self._info, self._next(), self._to_come)
        self._prepare()

    def go_on(self) -> None:
        """Hand the next items over."""
        self._pool.more_items(self._next())
        self._prepare()

    def __enter__(self) -> Bringing:
        return self

    def __exit__(self, *error: object) -> None:
        for items in self._ready:
            remove_blobs(items.payloads)


def job_of(
    input: Files, output: Files, params: Mapping[str, Any] | None, log: Sequence[str]
) -> Job:
    """Return a job with files that a caller named."""
    return Job(input=_named(input), output=_named(output), params=params, log=log)


def _named(files: Files) -> Named:
    if isinstance(files, str | os.PathLike):  # one file, not one per letter
        files = [str(files)]
    pairs = files.items() if isinstance(files, Mapping) else [(None, f) for f in files]
    return Named.from_pairs(pairs)


def request_of(
    config: PoolConfig,
    job_id: int,
    spec: str,
    name: str,
    job: Job,
    device: str | None,
    instance: str,
) -> Request:
    """Return what the pool is asked for by a call; ``name`` is what messages call the tool."""
    cwd = os.getcwd()  # noqa: PTH109 - a plain string
    return Request(
        job_id=job_id,
        title=f"call of {name}",
        tool=ToolRef(spec, cwd, config.python, mode=config.mode, name=name),
        job=pickle.dumps(job, PICKLE_PROTOCOL),
        params=pickle.dumps(dict(job.params), PICKLE_PROTOCOL),
        cwd=cwd,
        texts=tuple(sorted(set(texts_of(dict(job.params))))),
        devices=parse_device(device) if device else None,
        instance=instance,
        # Each call is meant to be tried, whatever became of the model in an earlier one.
        attempt=2,
        facts=JobFacts.of(
            "", {}, list(job.input), list(job.output), list(job.log), params=job.params
        ),
    )
