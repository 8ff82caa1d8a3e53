"""Descriptions of the models of jobs that follow; those that no text chooses are made once.

Params without any text name no file, whose content would have to be looked at for each job.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker.describe import describe_model, tool_info
from snakemake_executor_gpupool.worker.loaded import for_files

#: How many are kept.
MOST = 1000
#: What a tool may say of its model by code of its own.
_METHODS = (
    *("extra_model_files", "model_params", "run_params", "short_tokens"),
    *("__new__", "__init__"),
)
_ATTRIBUTES = ("version", "defaults", "reload_on", "write_params", "max_short_tokens")
_TEXTLESS = frozenset((type(None), bool, int, float))


class PlainModels:
    """What was found out about models, by tool and params; of one process, for one thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, str], dict[str, Any]] = {}

    def of(self, kind: type[Tool], job: Job) -> dict[str, Any]:
        """Return which model a job needs, and what is to be known of its tool."""
        if not are_plain(kind, job.params):
            return _described(kind, job)
        # As text, which tells True from 1 and 1.0.
        key = kind, repr(sorted(job.params.items()))
        if key not in self._known:
            if len(self._known) == MOST:
                self._known.clear()
            self._known[key] = _described(kind, job)
        return self._known[key]


def _described(kind: type[Tool], job: Job) -> dict[str, Any]:
    model = describe_model(for_files(kind, job.params), job.output)
    return {**model, "info": tool_info(kind)}


def are_plain(kind: type[Tool], params: Mapping[str, Any]) -> bool:
    """Return whether a model depends on a tool's class and some params, and on nothing else."""
    if any(isinstance(getattr(kind, name), property) for name in _ATTRIBUTES):
        return False
    if any(getattr(kind, name) is not getattr(Tool, name) for name in _METHODS):
        return False
    # A default may be the name of a file, too.
    return {*map(type, (*params.values(), *(kind.defaults or {}).values()))} <= _TEXTLESS
