"""Every installed tool as a function of the same name: ``esm2-embed`` is ``esm2_embed``.

>>> from snakemake_executor_gpupool.tools.functions import esm2_embed   # doctest: +SKIP
>>> esm2_embed(["MKTAYIAKQR"], model="esm2_t6_8M_UR50D")                 # doctest: +SKIP

What :func:`~snakemake_executor_gpupool.frontends.python.functions.tool_function` says of a
function holds for each. Nothing is imported before it is called.
"""

from __future__ import annotations

from snakemake_executor_gpupool.frontends.python.functions import ToolFunction, tool_function
from snakemake_executor_gpupool.tool_api.tool_spec import installed_tools


def __getattr__(name: str) -> ToolFunction:
    for tool in installed_tools():
        if tool.replace("-", "_") == name:
            return tool_function(tool)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: no such tool")


def __dir__() -> list[str]:
    return sorted(tool.replace("-", "_") for tool in installed_tools())
