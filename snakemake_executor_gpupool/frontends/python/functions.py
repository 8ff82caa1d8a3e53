"""A tool as a plain function: on the open pool if there is one, else cold in this process."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.python.calls import check_call
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class, resolve_spec
from snakemake_executor_gpupool.worker.cold import compute
from snakemake_executor_gpupool.worker.describe import item_key
from snakemake_executor_gpupool.worker.loaded import for_files


class ToolFunction:
    """What :func:`tool_function` returns: call it with items, and params by name.

    Attributes
    ----------
    tool
        The tool, as it was named.
    params
        Params of every call, under those of the call itself.
    """

    def __init__(
        self, tool: str, params: Mapping[str, Any], device: str | None, instance: str
    ) -> None:
        self.tool = tool
        self.params = dict(params)
        self._spec = resolve_spec(tool, str(Path.cwd()))
        self._device = device
        self._instance = instance

    def __repr__(self) -> str:
        given = [repr(self.tool), *(f"{name}={value!r}" for name, value in self.params.items())]
        return f"tool_function({', '.join(given)})"

    def __call__(self, items: Iterable[Any], **params: Any) -> list[Any]:
        """Compute items; return one result per item, in order. Duplicates are computed once.

        Parameters
        ----------
        items
            What the tool's ``run`` takes, or its ``item`` makes items of: for ESM-2 sequences.
        **params
            The tool's params.

        Raises
        ------
        TypeError
            ``items`` is one text, a dict or anything else that is no list of items; or the tool
            has no such param, and the message says which is nearest.
        JobFailed
            In a pool: an item failed; the message names it. Cold, the tool's own error is raised.
        """
        from snakemake_executor_gpupool.frontends.python.pool import ToolPool

        merged = {**self.params, **params}
        check_call(load_tool_class(self._spec), self.tool, items, merged)
        pool = ToolPool.current()
        if pool is None:
            return _cold(load_tool_class(self._spec), merged, list(items), self._device)
        return pool.run_spec(self._spec, self.tool, items, merged, self._device, self._instance)


def tool_function(
    tool: str,
    /,
    *,
    device: str | None = None,
    instance: str = "",
    **params: Any,
) -> ToolFunction:
    """Make a function of a tool.

    Inside a ``with ToolPool(...)`` block a call is divided over all workers of that pool, and
    the model stays loaded for later calls. Outside of one it loads the model, computes in this
    process, and forgets it.

    Parameters
    ----------
    tool
        Name of an installed tool, ``package.module:Class`` or ``path/to/file.py:Class``.
    device
        A device string; None: as the tool prefers.
    instance
        Name of a worker group of its own, in a pool.
    **params
        The tool's params, for every call.

    Raises
    ------
    UnknownTool
        There is no such tool.

    Examples
    --------
    >>> embed = tool_function("esm2-embed", model="esm2_t6_8M_UR50D")   # doctest: +SKIP
    >>> with ToolPool(devices="all"):                                    # doctest: +SKIP
    ...     first = embed(["MKTAYIAKQR", "MADQLTEEQI"])
    ...     again = embed(["MSDNGPQNQR"], pool="per_token")
    """
    return ToolFunction(tool, params, device, instance)


def _cold(
    tool_class: type[Tool], params: dict[str, Any], values: list[Any], device: str | None
) -> list[Any]:
    tool = for_files(tool_class, params)
    items = tool.items_of_call(values)
    keys = [
        item_key(tool, item) if tool.deterministic else number for number, item in enumerate(items)
    ]
    distinct = dict(zip(keys, items, strict=True))
    computed = compute(tool, params, list(distinct.values()), device)
    results = dict(zip(distinct, computed, strict=True))
    return tool.results_of_call(items, unshared([results[key] for key in keys]))


def unshared(results: list[Any]) -> list[Any]:
    """Return results of which no two are the same object: callers change them in place.

    In a pool each place unpickles a result of its own, so that the same holds there.
    """
    seen: set[int] = set()
    own = []
    for result in results:
        own.append(copy.deepcopy(result) if id(result) in seen else result)
        seen.add(id(result))
    return own
