"""What a call from Python submits to the pool: items as a file process describes them, jobs."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.wire.described import ModelInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.kept import result_key
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import Request
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.code_digest import forget_changed_code
from snakemake_executor_gpupool.worker.dependencies import holds
from snakemake_executor_gpupool.worker.describe import (
    describe_item,
    describe_model,
)
from snakemake_executor_gpupool.worker.result_file import KeptResults
from snakemake_executor_gpupool.worker.travel import packed_item

#: Files of a job: one, several, or several by name.
Files = Sequence[str] | Mapping[str, Any]


def items_read(
    tool: Tool, items: Sequence[Any], request: Request, spool: Spool, kept: KeptResults | None
) -> ItemsRead:
    """Do for a call's items what a file process does for a job's.

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
    model = ModelInfo.from_fields(Fields(describe_model(tool), "a model"))
    keys: list[str] = []
    costs: list[float] = []
    tokens: list[int] = []
    names: list[str] = []
    payloads: list[Blob] = []
    found: set[int] = set()
    head = request.space, model.model, model.group
    seen: set[str] = set()
    for position, item in enumerate(items):
        parts = packed_item(tool, item, position)
        key, cost, size, name = describe_item(tool, item, position)
        keys.append(key)
        costs.append(cost)
        tokens.append(size)
        names.append(name)
        if kept is not None and key not in seen:
            seen.add(key)
            result = kept.find(result_key(*head, key))
            if result is not None:
                found.add(position)
                parts = [result]
        payloads.append(spool.put(parts))
    return ItemsRead(
        request.job_id,
        model,
        keys=tuple(keys),
        costs=tuple(costs),
        tokens=tuple(tokens),
        names=tuple(names),
        payloads=tuple(payloads),
        kept=frozenset(found),
    )


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
