"""Run a micro-batch so that one bad item costs its batch-mates nothing.

If ``run`` raises for several items, the batch is halved until the guilty ones
stand alone; the others get their results. Out of memory is told apart: halving
then is no search but the cure, and the coordinator hears what size fitted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from snakemake_executor_gpupool.cold import check_length
from snakemake_executor_gpupool.tool import Tool
from snakemake_executor_gpupool.workers.child_memory import is_out_of_memory, release_memory
from snakemake_executor_gpupool.workers.child_output import tell_error


class Outcome(NamedTuple):
    """What became of one item."""

    result: Any
    error: dict[str, Any] | None = None
    #: The item's batch was halved because memory ran out.
    out_of_memory: bool = False


def run_batch(tool: Tool, items: list[Any]) -> list[Outcome]:
    """Return one outcome per item, in order; never raises for a tool's error."""
    error = None
    try:
        results = tool.run(items)
        check_length(tool, results, len(items))
        return [Outcome(result) for result in results]
    except Exception as caught:
        # The traceback holds the failed call's arrays alive: tell it, then let it go.
        exhausted = is_out_of_memory(caught)
        error = tell_error(caught)
    if exhausted:
        release_memory()
    if len(items) == 1:
        return [Outcome(None, error, exhausted)]
    middle = len(items) // 2
    halves = run_batch(tool, items[:middle]) + run_batch(tool, items[middle:])
    return [half._replace(out_of_memory=half.out_of_memory or exhausted) for half in halves]
