"""gpupool: a Snakemake executor that serves GPU rules from persistent warm model workers.

The public names are loaded on first use, so that importing the package (which
Snakemake does at every start, and a model worker does inside another
environment's Python) costs nothing.
"""

import importlib
import os

__version__ = "0.1.0"

_HOMES = {
    "Tool": "tool_api.tool",
    "Job": "tool_api.values",
    "Tolerance": "tool_api.tolerance",
    "GpupoolError": "errors",
    "InputError": "errors",
    "JobFailed": "errors",
    "PoolEnded": "errors",
    "ToolPool": "frontends.python.pool",
    "tool_function": "frontends.python.functions",
    "DeviceManager": "devices.manager",
    "OffloadStrategy": "devices.device",
}

__all__ = [
    "DeviceManager",
    "GpupoolError",
    "InputError",
    "Job",
    "JobFailed",
    "OffloadStrategy",
    "PoolEnded",
    "Tolerance",
    "Tool",
    "ToolPool",
    "tool_function",
]


if "GPUPOOL_TOOL_FILES" in os.environ:
    # A tool's own child process, started afresh, is sent objects of the tool's classes.
    importlib.import_module(f"{__name__}.tool_api.spawned").install()


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
